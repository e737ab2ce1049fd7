"""Megatron's `.bin/.idx` pair (MMIDIDX, version 1), memory-mapped, and the manifest that stands beside it."""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_seed.errors import SeedError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


@dataclass(frozen=True)
class IndexedTokens:
    """One build. `tokens` is the whole `.bin`; document i is tokens[ends[i - 1]:ends[i]]."""

    prefix: Path
    tokens: np.ndarray
    """Memory map, [tokens], uint16 or int32."""
    document_lengths: np.ndarray
    """[documents], tokens of each."""

    @classmethod
    def open(cls, prefix: Path | str) -> IndexedTokens:
        """Map both files. Raises SeedError naming the file when one is missing, damaged or of the wrong length."""
        prefix = Path(prefix)
        index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index, binary):
            if not path.is_file():
                raise SeedError(f"{path}: no such file; a build is named by its prefix, without .bin or .idx")
        dtype, lengths, documents = _read_index(index)
        expected = int(lengths.sum(dtype=np.int64)) * np.dtype(dtype).itemsize
        if binary.stat().st_size != expected:
            raise SeedError(f"{binary}: {binary.stat().st_size} bytes, but {index.name} describes {expected}")
        if not expected:
            raise SeedError(f"{binary}: holds no tokens")
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[documents]
        return cls(prefix, np.memmap(binary, dtype=dtype, mode="r"), np.diff(starts))

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """[documents + 1], first token of each document and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.document_lengths, dtype=np.int64)])

    def document(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def read_manifest(prefix: Path | str) -> dict[str, Any] | None:
    """The manifest that `data build` writes, None for builds that were made elsewhere."""
    path = Path(f"{prefix}.manifest.json")
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SeedError(f"{path}: not JSON: {error}") from error


def _read_index(path: Path) -> tuple[type, np.ndarray, np.ndarray]:
    """Token type, [sequences] lengths, [documents + 1] first sequence of each document."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise SeedError(f"{path}: not a Megatron index (no MMIDIDX header)")
    _, version, code, sequences, documents = _HEADER.unpack(head)
    if version != 1 or code not in _DTYPES:
        raise SeedError(f"{path}: index version {version} with token type {code} is not known")
    if size < _HEADER.size + 12 * sequences + 8 * documents:
        raise SeedError(f"{path}: truncated: {size} bytes for {sequences} sequences and {documents} document bounds")
    lengths = np.memmap(path, np.int32, "r", _HEADER.size, (sequences,)) if sequences else np.empty(0, np.int32)
    offset = _HEADER.size + 12 * sequences
    bounds = np.memmap(path, np.int64, "r", offset, (documents,)) if documents else np.zeros(1, np.int64)
    if bounds[0] != 0 or bounds[-1] != sequences or (np.diff(bounds) < 0).any() or (lengths < 0).any():
        raise SeedError(f"{path}: damaged: document bounds or lengths are out of order")
    return _DTYPES[code], lengths, bounds
