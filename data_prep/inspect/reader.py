"""One build, read document by document: tokens, where they come from, and where loss begins."""

import bisect
import itertools
import json
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.megatron_format import MAGIC, VERSION
from data_prep.storage import as_path, in_words, open_to_read, read_bytes

MANIFEST = ".manifest.json"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_PROVENANCE = ("source", "repository", "path")


@dataclass(frozen=True)
class Place:
    """Where a document's text came from."""

    source: str
    repository: str
    path: str


@dataclass
class BuildReader:
    """Open files of a build; nothing is read but what a document needs, so its size does not matter."""

    prefix: Path
    documents: int
    manifest: dict[str, Any]
    """Empty for a build that was not declared."""
    _dtype: np.dtype
    _sequences: int
    _index: BinaryIO
    _tokens: BinaryIO
    _provenance: pq.ParquetFile | None
    _loss_starts: tuple[BinaryIO, int, np.dtype] | None
    """File, where its numbers begin, and what they are."""
    _group_starts: list[int] = field(default_factory=list)
    _last_group: tuple[int, pa.Table] | None = None

    @classmethod
    def open(cls, prefix: Path, stack: ExitStack) -> "BuildReader":
        """Opens a build; the files are closed with `stack`. Raises `DataError` for what is none, or is damaged."""

        def opened(suffix: str) -> BinaryIO:
            path = _beside(prefix, suffix)
            try:
                return stack.enter_context(open_to_read(path))
            except OSError as error:
                raise DataError(
                    f"{path}: {in_words(error)}; a build is named by its prefix or one of its files"
                ) from None

        index, tokens = opened(".idx"), opened(".bin")
        head = index.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(MAGIC):
            raise DataError(f"{prefix}.idx: not the index of a build (no MMIDIDX header)")
        _, version, code, sequences, bounds = _HEADER.unpack(head)
        if version != VERSION or code not in _DTYPES:
            raise DataError(f"{prefix}.idx: index version {version} with token type {code} is not known")
        if index.seek(0, 2) < _HEADER.size + 12 * sequences + 8 * bounds or not bounds:
            raise DataError(f"{prefix}.idx: truncated: it has not the {sequences} sequences that it announces")
        manifest = read_manifest(prefix)
        provenance = _provenance_of(prefix, stack)
        loss = _loss_starts_of(opened, prefix, manifest) if "loss" in manifest else None
        made = cls(prefix, bounds - 1, manifest, np.dtype(_DTYPES[code]), sequences, index, tokens, provenance, loss)
        if provenance:
            rows = (provenance.metadata.row_group(group).num_rows for group in range(provenance.num_row_groups))
            made._group_starts = [0, *itertools.accumulate(rows)]
        return made

    def document(self, number: int) -> np.ndarray:
        """[tokens] of a document. Raises `DataError` where there is no such document, or the files do not fit."""
        if not 0 <= number < self.documents:
            raise DataError(f"{self.prefix}: has documents 0 to {self.documents - 1}, and no {number}")
        first, end = self._numbers(_HEADER.size + 12 * self._sequences + 8 * number, 2, "<i8")
        if first == end:
            return np.empty(0, self._dtype)
        (start,) = self._numbers(_HEADER.size + 4 * self._sequences + 8 * first, 1, "<i8")
        lengths = self._numbers(_HEADER.size + 4 * first, end - first, "<i4")
        self._tokens.seek(start)
        data = self._tokens.read(sum(lengths) * self._dtype.itemsize)
        if len(data) != sum(lengths) * self._dtype.itemsize:
            raise DataError(f"{self.prefix}.bin: ends within document {number}; the build is damaged")
        return np.frombuffer(data, self._dtype)

    def place(self, number: int) -> Place | None:
        """None for a build without provenance (made elsewhere)."""
        if self._provenance is None:
            return None
        group = bisect.bisect_right(self._group_starts, number) - 1
        if group >= len(self._group_starts) - 1:
            raise DataError(f"{self.prefix}.provenance.parquet: has no row for document {number}; build it again")
        if self._last_group is None or self._last_group[0] != group:
            self._last_group = group, self._provenance.read_row_group(group, columns=list(_PROVENANCE))
        row = self._last_group[1].slice(number - self._group_starts[group], 1).to_pylist()[0]
        return Place(**row)

    def loss_start(self, number: int) -> int:
        """The first token of a document that has loss; those before it are only given."""
        if self._loss_starts is None:
            return 0
        file, start, dtype = self._loss_starts
        file.seek(start + number * dtype.itemsize)
        return int(np.frombuffer(file.read(dtype.itemsize), dtype)[0])

    def _numbers(self, offset: int, count: int, dtype: str) -> list[int]:
        self._index.seek(offset)
        data = self._index.read(count * np.dtype(dtype).itemsize)
        numbers = np.frombuffer(data, dtype).tolist()
        if len(numbers) != count or min(numbers) < 0:
            raise DataError(f"{self.prefix}.idx: damaged: its places and lengths do not fit each other")
        return numbers


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def read_manifest(prefix: Path) -> dict[str, Any]:
    """The manifest beside a build, empty where there is none."""
    path = _beside(prefix, MANIFEST)
    try:
        manifest = json.loads(read_bytes(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the manifest of a build: {' '.join(str(error).split())}") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: not the manifest of a build")
    return manifest


def _provenance_of(prefix: Path, stack: ExitStack) -> pq.ParquetFile | None:
    path = _beside(prefix, ".provenance.parquet")
    if not path.is_file():
        return None
    try:
        return stack.enter_context(pq.ParquetFile(stack.enter_context(open_to_read(path))))
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a parquet file that can be read: {' '.join(str(error).split())}") from None


def _loss_starts_of(opened: Any, prefix: Path, manifest: dict[str, Any]) -> tuple[BinaryIO, int, np.dtype]:
    file = opened(".loss_starts.npy")
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        (count,), _, dtype = read(file)
    except ValueError as error:
        raise DataError(f"{prefix}.loss_starts.npy: cannot be read: {error}") from None
    if count != manifest.get("documents"):
        raise DataError(f"{prefix}.loss_starts.npy: has {count} numbers for {manifest.get('documents')} documents")
    return file, file.tell(), dtype


def is_build(place: Path) -> bool:
    """Whether a place is a build or a folder of builds, and no corpus."""
    if place.suffix in (".bin", ".idx") or _beside(place, ".idx").is_file():
        return True
    return place.is_dir() and not (place / "import.json").is_file() and bool(builds_in(place))


def builds_in(folder: Path) -> list[Path]:
    """Prefixes of the builds in a folder, by name."""
    return sorted(path.with_name(path.name.removesuffix(".idx")) for path in folder.glob("*.idx"))


def prefix_of(place: str) -> Path:
    return as_path(place.removesuffix(".bin").removesuffix(".idx"))
