"""Documents: what a corpus holds, as parquet shards that anything can read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards import fingerprint, finished_manifests
from data_prep.storage import open_parquet

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("repository", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("encoding", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("licence_file", pa.string()),
        pa.field("repository_licence", pa.string()),
        pa.field("stars", pa.int64()),
    ]
)
METADATA_COLUMNS = [name for name in SCHEMA.names if name != "text"]
ROW_GROUP_BYTES = 8 << 20


def document_id(source: str, repository: str, path: str, record: str | None = None) -> str:
    """32 hex digits that name a document for good: they depend on where it is, not on what it or its neighbours say.

    `record` tells apart the records of a table, where a path may occur more than once.
    """
    parts = [source, repository, path] if record is None else [source, repository, path, record]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Document:
    """One file. `text` is exactly what is trained on; the id, size and SHA-256 follow from the other fields.

    `licence_file` is the nearest in the folders above, `repository_licence` the SPDX identifier of what it says.
    `encoding` is what the file was in, as Python calls it; text is UTF-8 in any case.
    """

    source: str
    repository: str
    path: str
    language: str
    text: str
    record: str | None = None
    licence_file: str | None = None
    repository_licence: str | None = None
    stars: int | None = None
    encoding: str = "utf-8"

    def row(self) -> dict[str, Any]:
        data = self.text.encode()
        return {
            "id": document_id(self.source, self.repository, self.path, self.record),
            "source": self.source,
            "repository": self.repository,
            "path": self.path,
            "language": self.language,
            "encoding": self.encoding,
            "text": self.text,
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "licence_file": self.licence_file,
            "repository_licence": self.repository_licence,
            "stars": self.stars,
        }


@dataclass
class DocumentWriter:
    """Writes documents to one parquet stream, a row group whenever `row_group_bytes` of text have come together."""

    stream: BinaryIO
    row_group_bytes: int = ROW_GROUP_BYTES
    rows: int = 0
    text_bytes: int = 0
    _pending: list[dict[str, Any]] = field(default_factory=list)
    _pending_bytes: int = 0
    _writer: pq.ParquetWriter = field(init=False)

    def __post_init__(self) -> None:
        options = {"compression": "zstd", "write_statistics": ["id", "language"], "use_dictionary": METADATA_COLUMNS}
        self._writer = pq.ParquetWriter(self.stream, SCHEMA, **options)

    def add(self, row: dict[str, Any]) -> None:
        self._pending.append(row)
        self._pending_bytes += row["size_bytes"]
        self.rows += 1
        self.text_bytes += row["size_bytes"]
        if self._pending_bytes >= self.row_group_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA))
        self._pending, self._pending_bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


def shard_batches(path: Path, columns: list[str] | None = None, batch_rows: int = 256) -> Iterator[pa.RecordBatch]:
    """Reads a documents shard in row order, a bounded number of rows at a time."""
    with open_parquet(path, pre_buffer=False, buffer_size=1 << 20) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False)


def read_rows(path: Path, rows: np.ndarray, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Some rows of a documents shard (their numbers, ascending), by row group: (numbers, rows). Row groups that hold
    none of them are not read."""
    with open_parquet(path, pre_buffer=False) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(rows, (start, stop))
            if first < last:
                table = file.read_row_group(group, columns=columns, use_threads=False)
                yield rows[first:last], table.take(pa.array(rows[first:last] - start))
            start = stop


def documents_directory(corpus: Path) -> Path:
    return corpus / "documents"


def is_corpus(folder: Path) -> bool:
    """Whether an import into this folder is complete."""
    return (folder / "import.json").is_file()


def list_shards(corpus: Path) -> list[Path]:
    """The documents shards of a corpus whose import is complete, by name. Raises `DataError` otherwise."""
    if not is_corpus(corpus):
        known = corpus.is_dir() and documents_directory(corpus).is_dir()
        what = "its import did not finish" if known else "there is no corpus there"
        raise DataError(f"{corpus}: {what}; run `data import` on it first")
    shards = sorted(documents_directory(corpus).glob("*.parquet"))
    for shard, manifest in zip(shards, finished_manifests(shards), strict=True):
        if manifest is None:
            raise DataError(f"{shard} does not match its manifest; run `data import` again to make it anew")
    return shards


def corpus_fingerprint(corpus: Path) -> str:
    """Changes when any document of the corpus does."""
    shards = list_shards(corpus)
    found = zip(shards, finished_manifests(shards), strict=True)
    return fingerprint([(shard.name, manifest["sha256"]) for shard, manifest in found])
