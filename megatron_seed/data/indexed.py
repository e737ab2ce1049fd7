"""Megatron's `.bin/.idx` pair (MMIDIDX, version 1), memory-mapped."""

from __future__ import annotations

import functools
import hashlib
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_seed.errors import SeedError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


@dataclass(frozen=True)
class IndexedTokens:
    """One build. Nothing but the index's header is read until it is asked for, so thousands can be open."""

    prefix: Path
    dtype: np.dtype
    token_count: int
    document_lengths: np.ndarray
    """[documents], tokens of each."""
    loss_starts: np.ndarray | None = None
    """[documents] int32, first token of each whose loss counts, counted in it; None where all count."""

    @classmethod
    def open(cls, prefix: Path | str, thorough: bool = True) -> IndexedTokens:
        """Open both files; raises SeedError naming the one that is missing, damaged or of the wrong length.

        `thorough` reads the whole index; without it only its ends are held against the size of the `.bin`.
        """
        prefix = Path(prefix)
        index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index, binary):
            if not path.is_file():
                raise SeedError(f"{path}: no such file; a build is named by its prefix, without .bin or .idx")
        dtype, lengths, pointers, bounds = _map_index(index)
        expected = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize if len(lengths) else 0
        if binary.stat().st_size != expected:
            raise SeedError(f"{binary}: {binary.stat().st_size} bytes, but {index.name} describes {expected}")
        if not expected:
            raise SeedError(f"{binary}: holds no tokens")
        if thorough:
            _check_index(index, dtype, lengths, pointers, bounds)
        one_each = len(bounds) == len(lengths) + 1
        documents = lengths if one_each else np.add.reduceat(np.append(lengths, 0), bounds[:-1]) * (np.diff(bounds) > 0)
        return cls(prefix, dtype, expected // dtype.itemsize, documents)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Memory map of the whole `.bin`, [tokens]."""
        return np.memmap(f"{self.prefix}.bin", dtype=self.dtype, mode="r")

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """[documents + 1], first token of each document and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.document_lengths, dtype=np.int64)])

    @functools.cached_property
    def index_digest(self) -> str:
        """SHA-256 (hex) of the `.idx`."""
        with Path(f"{self.prefix}.idx").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def document(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def _map_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """Token type, [sequences] lengths, [sequences] byte offsets, [documents + 1] first sequence of each document."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise SeedError(f"{path}: not a Megatron index (no MMIDIDX header)")
    _, version, code, sequences, documents = _HEADER.unpack(head)
    if version != 1 or code not in _DTYPES:
        raise SeedError(f"{path}: index version {version} with token type {code} is not known")
    size = path.stat().st_size
    if size < _HEADER.size + 12 * sequences + 8 * documents:
        raise SeedError(f"{path}: truncated: {size} bytes for {sequences} sequences and {documents} document bounds")
    content = np.memmap(path, np.uint8, "r")
    places = np.cumsum([_HEADER.size, 4 * sequences, 8 * sequences, 8 * documents])
    parts = [content[start:stop] for start, stop in itertools.pairwise(places)]
    lengths, pointers, bounds = (
        part.view(kind) for part, kind in zip(parts, (np.int32, np.int64, np.int64), strict=True)
    )
    return np.dtype(_DTYPES[code]), lengths, pointers, bounds


def _check_index(path: Path, dtype: np.dtype, lengths: np.ndarray, pointers: np.ndarray, bounds: np.ndarray) -> None:
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    if (lengths < 0).any() or pointers[0] != 0 or not np.array_equal(pointers[1:], ends[:-1]):
        raise SeedError(f"{path}: damaged: sequence lengths and byte offsets do not fit each other")
    if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(lengths) or (np.diff(bounds) < 0).any():
        raise SeedError(f"{path}: damaged: document bounds are out of order")
