"""Tables of files with The-Stack-like columns: JSONL (plain, .gz, .zst) and parquet.

A record's id is made from its repository, its path and where it stands (byte offset of its line, or row number), since
a table may hold a path more than once. A record that names no repository is a repository of its own.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from data_prep.documents import Document
from data_prep.errors import DataError
from data_prep.shards import fingerprint
from data_prep.sources.base import Budget, Drops, ImportLimits, KnownBlobs, Piece, SourceSpec, is_left_out
from data_prep.sources.content import Content, content_of, printable
from data_prep.sources.objects import objects_below
from data_prep.storage import as_path, is_remote, open_parquet, open_to_read, version_of

COLUMNS = {
    "content": ("content", "text", "code", "contents"),
    "repository": ("max_stars_repo_name", "repository_name", "repo_name", "repository", "repo"),
    "path": ("max_stars_repo_path", "path", "file_path", "filepath", "filename", "file_name"),
    "language": ("lang", "language", "programming_language"),
    "stars": ("max_stars_count", "stars", "star_count", "stars_count", "stargazers_count", "repo_stars"),
}
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_READ_BYTES = 1 << 20


def find_columns(names: list[str]) -> dict[str, str]:
    """Which of a table's columns plays which role."""
    present = set(names)
    found = {role: next((name for name in known if name in present), None) for role, known in COLUMNS.items()}
    return {role: name for role, name in found.items() if name}


def table_files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """The table files at `path`: itself, or those in the folder and below it, sorted. None that is hidden, or in a
    hidden or ignored folder below it."""
    location = as_path(path)
    if location.is_file():
        return [path]
    if is_remote(location):
        found = [file for file in objects_below(location) if file.name.endswith(suffixes)]
        return [str(file) for file in found if not is_left_out(file.path[len(location.path) :].strip("/"))]
    return sorted(file for file in files_below(str(location)) if file.endswith(suffixes) and os.path.isfile(file))


def files_below(root: str, not_listed: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """What is in a folder on a disk and below it and is no folder, without what is left out of tables.

    `not_listed` is called for folders that cannot be listed.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                children = [child for child in listing if not is_left_out(child.name)]
        except OSError as error:
            if not_listed:
                not_listed(error)
            continue
        for child in children:
            if child.is_dir(follow_symlinks=False):
                waiting.append(child.path)
            elif not (child.is_symlink() and os.path.isdir(child.path)):
                yield child.path


@dataclass(frozen=True)
class TableReader:
    """Turns records of one table file into documents. `shown` names the file in ids and in drop examples."""

    source: str
    shown: str
    limits: ImportLimits
    drops: Drops

    def document(self, record: Any, position: int, columns: Mapping[str, str]) -> Document | None:
        where = f"{self.shown}#{position}"
        if not isinstance(record, Mapping):
            return self._drop("wrong_type", f"{where}: {type(record).__name__} instead of a record")
        if "content" not in columns:
            return self._drop("missing_column", f"{where}: no {'/'.join(COLUMNS['content'])} among {_listed(record)}")
        content = record.get(columns["content"])
        if not isinstance(content, str | bytes):
            return self._drop("wrong_type", f"{where}: {columns['content']} is {type(content).__name__}, not text")
        names = {role: record.get(columns.get(role)) for role in ("repository", "path", "language")}
        for role, value in names.items():
            if not isinstance(value, str | None):
                return self._drop("wrong_type", f"{where}: {columns[role]} is {type(value).__name__}, not text")
        path = printable(names["path"] or f"{where}")
        found, size_bytes = self._content(content, path, names["language"])
        if found.reason:
            return self._drop(found.reason, f"{where}: {path}", size_bytes)
        stars = record.get(columns["stars"]) if "stars" in columns else None
        repository = printable(names["repository"] or where)
        return Document(
            self.source,
            repository,
            path,
            found.language,
            found.text,
            where,
            stars=_whole(stars),
            encoding=found.encoding,
        )

    def fits(self, document: Document, position: int, budget: Budget) -> bool:
        """Whether the total size still allows a document; counted as dropped where it does not."""
        if budget.left is None:
            return True
        size_bytes = len(document.text.encode())
        fits = budget.take(size_bytes)
        if not fits:
            self._drop("total_size", f"{self.shown}#{position}", size_bytes)
        return fits

    def _content(self, content: str | bytes, path: str, said: str | None) -> tuple[Content, int]:
        try:
            size_bytes = len(content if isinstance(content, bytes) else content.encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            return Content(reason="not_utf8"), len(content)
        if size_bytes > self.limits.most_bytes(path):
            return Content(reason="too_large"), size_bytes
        return content_of(path, content, self.limits.max_file_bytes, said), size_bytes

    def _drop(self, reason: str, example: str, size_bytes: int | None = None) -> None:
        self.drops.add(reason, printable(example), size_bytes)


def _listed(record: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, record))[:20]) or "no columns"


def _whole(stars: Any) -> int | None:
    """A star count, where it is a number that can be one."""
    if isinstance(stars, bool) or not isinstance(stars, int | float) or not 0 <= stars < 2**63:
        return None
    return int(stars)


@dataclass(frozen=True)
class JsonlSlice:
    """The lines of a JSONL file that start in [start, end) of its uncompressed bytes; end None: to the last one.

    `most_bytes` of text are taken; what follows is dropped as past the total size.
    """

    path: str
    source: str
    shown: str
    start: int = 0
    end: int | None = None
    most_bytes: int | None = None

    def documents(self, limits: ImportLimits, drops: Drops, known: KnownBlobs | None = None) -> Iterator[Document]:
        reader = TableReader(self.source, self.shown, limits, drops)
        budget = Budget(self.most_bytes)
        # JSON may need 6 bytes for one of text, though not of what notebooks hold, and there are other fields.
        longest = max(6 * limits.max_file_bytes, 2 * limits.max_notebook_bytes) + (1 << 20)
        try:
            with open_stream(self.path) as stream:
                for position, line in _lines(stream, self.start, self.end, longest):
                    document = self._document(reader, position, line)
                    if document and reader.fits(document, position, budget):
                        yield document
        except (OSError, EOFError) as error:
            drops.add("damaged_table", f"{self.shown}: {error}")

    def _document(self, reader: TableReader, position: int, line: bytes | None) -> Document | None:
        where = f"{self.shown}#{position}"
        if line is None:
            return reader.drops.add("too_large", f"{where}: line")
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            return reader.drops.add("not_utf8", where, len(line))
        except (ValueError, RecursionError) as error:
            return reader.drops.add("malformed_json", f"{where}: {error}", len(line))
        return reader.document(record, position, find_columns(list(record)) if isinstance(record, dict) else {})


@contextlib.contextmanager
def open_stream(path: str) -> Iterator[BinaryIO]:
    """The bytes of a plain, .gz or .zst file, uncompressed. Raises `OSError` where an archive is damaged or cut."""
    compression = _COMPRESSION.get(os.path.splitext(path)[1])
    with open_to_read(as_path(path)) as file:
        if compression is None:
            yield io.BufferedReader(file, _READ_BYTES) if is_remote(as_path(path)) else file
            return
        with pa.CompressedInputStream(file, compression) as stream:
            yield io.BufferedReader(stream, _READ_BYTES)


def _lines(stream: BinaryIO, start: int, end: int | None, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line) of the lines that start in [start, end) and are not blank; None for one longer than `longest`."""
    position = start
    if start:
        stream.seek(start - 1)  # a line that starts at `start` has its newline just before
        position += _skip_line(stream, b"") - 1
    while end is None or position < end:
        line = stream.readline(longest)
        if not line:
            return
        length = len(line)
        if not line.endswith(b"\n") and length == longest:
            length += _skip_line(stream, line)
            yield position, None
        elif not line.isspace():
            yield position, line
        position += length


def _skip_line(stream: BinaryIO, read: bytes) -> int:
    """Reads to the end of a line of which `read` was read; returns the bytes read now."""
    length = 0
    while not read.endswith(b"\n"):
        read = stream.readline(_READ_BYTES)
        length += len(read)
        if not read:
            break
    return length


@dataclass(frozen=True)
class ParquetSlice:
    """Row groups [first, last) of a parquet file; `most_bytes` as in `JsonlSlice`."""

    path: str
    source: str
    shown: str
    first: int
    last: int
    most_bytes: int | None = None

    def documents(self, limits: ImportLimits, drops: Drops, known: KnownBlobs | None = None) -> Iterator[Document]:
        reader = TableReader(self.source, self.shown, limits, drops)
        budget = Budget(self.most_bytes)
        try:
            with open_parquet(as_path(self.path), pre_buffer=False, buffer_size=_READ_BYTES) as file:
                columns = find_columns(file.schema_arrow.names)
                row = sum(file.metadata.row_group(group).num_rows for group in range(self.first))
                batches = file.iter_batches(16, range(self.first, self.last), list(columns.values()), use_threads=False)
                for record in (record for batch in batches for record in _records(batch, columns["content"])):
                    document = reader.document(record, row, columns)
                    if document and reader.fits(document, row, budget):
                        yield document
                    row += 1
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            drops.add("damaged_table", f"{self.shown}: {_one_line(error)}")


def _records(batch: pa.RecordBatch, content: str) -> list[dict[str, Any]]:
    """Rows as dicts, the content as bytes, so that one invalid string costs its row and not the batch."""
    index = batch.schema.get_field_index(content)
    column = batch.column(index)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return batch.set_column(index, content, column.cast(pa.large_binary())).to_pylist()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Refused(Exception):
    """A table that cannot be imported: (drop reason, detail)."""


def plan_tables(spec: SourceSpec, kind: str, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """The table files at `spec.path` in order, large ones in parts."""
    suffixes = PARQUET_SUFFIXES if kind == "parquet" else JSONL_SUFFIXES
    parts_of, make = (_parquet_parts, ParquetSlice) if kind == "parquet" else (_jsonl_parts, JsonlSlice)
    files = table_files(spec.path, suffixes)
    if not files:
        raise DataError(f"source {spec.name}: no {' or '.join(suffixes)} file in {spec.path}")
    for path in files:
        shown = printable(os.path.relpath(path, spec.path) if path != spec.path else os.path.basename(path))
        try:
            version = version_of(as_path(path))
            parts = list(parts_of(path, limits, budget))
        except _Refused as refused:
            drops.add(refused.args[0], f"{shown}: {refused.args[1]}")
            continue
        except (OSError, pa.ArrowException, UnicodeEncodeError) as error:  # the last: Arrow opens no such name
            reason = "unreadable" if isinstance(error, PermissionError | UnicodeEncodeError) else "damaged_table"
            drops.add(reason, f"{shown}: {_one_line(error)}")
            continue
        for first, last, size_bytes in parts:
            most = budget.left
            if most == 0:
                drops.add("total_size", f"{shown}#{first}", size_bytes)
                continue
            most = None if budget.take(size_bytes) else most
            inputs = fingerprint(*version, first, last, most)
            yield Piece(make(path, spec.name, shown, first, last, most), f"{shown}#{first}", size_bytes, inputs)


def _jsonl_parts(path: str, limits: ImportLimits, budget: Budget) -> Iterator[tuple[int, int | None, int]]:
    size_bytes, _ = version_of(as_path(path))
    if os.path.splitext(path)[1] in _COMPRESSION:
        yield 0, None, size_bytes if budget.left is None else _measure(path, budget.left)
        return
    for start in range(0, size_bytes, limits.shard_bytes):
        end = min(start + limits.shard_bytes, size_bytes)
        yield start, end, end - start


def _measure(path: str, most: int) -> int:
    """Uncompressed bytes of an archive, counted until they pass `most` or it turns out to be damaged."""
    total = 0
    with contextlib.suppress(OSError, EOFError), open_stream(path) as stream:
        while total <= most and (block := stream.read(_READ_BYTES)):
            total += len(block)
    return total


def _parquet_parts(path: str, limits: ImportLimits, budget: Budget) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups with about `shard_bytes` of content."""
    with open_parquet(as_path(path)) as file:
        content = find_columns(file.schema_arrow.names).get("content")
        if content is None:
            columns = ", ".join(file.schema_arrow.names)
            raise _Refused("missing_column", f"no {'/'.join(COLUMNS['content'])} among {columns}")
        kind = file.schema_arrow.field(content).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not _is_text(kind):
            raise _Refused("wrong_type", f"column {content} is {kind}, not text")
        leaf = next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path.split(".")[0] == content)
        first, size = 0, 0
        for group in range(file.metadata.num_row_groups):
            size += file.metadata.row_group(group).column(leaf).total_uncompressed_size
            if size >= limits.shard_bytes or group + 1 == file.metadata.num_row_groups:
                yield first, group + 1, size
                first, size = group + 1, 0


def _is_text(kind: pa.DataType) -> bool:
    checks = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{check}")(kind) for check in checks)
