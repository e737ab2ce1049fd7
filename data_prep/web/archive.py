"""Records of WARC files: plain, gzip, zstd or lz4; of a whole file, or of those that start in a range of its bytes.

After damage, reading goes on at the next record that can be found: the next compressed member, or the next line that
starts a record of a plain file.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastwarc.stream_io import GzipReader, Lz4Reader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_prep.storage import open_to_read, version_of

SUFFIXES = tuple(f".warc{end}" for end in ("", ".gz", ".zst", ".lz4"))
_MAGIC = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd", ".lz4": b"\x04\x22\x4d\x18"}
_READERS = {_MAGIC[".gz"]: GzipReader, _MAGIC[".zst"]: ZstdReader, _MAGIC[".lz4"]: Lz4Reader}
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # starts a frame with the dictionary of the file
_MARK = b"WARC/1."
_START = re.compile(rb"WARC/1\.\d\r?\n[A-Za-z-]+ *:")
_BEFORE = b"\r\n\r\n"
_BLOCK_BYTES = 1 << 20
_PROBE_BYTES = 1 << 14
# All but requests and what crawlers note about themselves.
_LOOKED_AT = (
    WarcRecordType.response
    | WarcRecordType.resource
    | WarcRecordType.revisit
    | WarcRecordType.conversion
    | WarcRecordType.continuation
    | WarcRecordType.unknown
)


class Position(NamedTuple):
    """Where a record is: the byte at which its compressed member (or it, in a plain file) starts, and which it is of
    those in that member."""

    start: int
    number: int

    def __str__(self) -> str:
        return f"{self.start}.{self.number}" if self.number else str(self.start)


@dataclass(frozen=True)
class Damage:
    """Bytes that are no records: `damaged_record`, `truncated_file` (up to its end) or `not_warc`."""

    reason: str
    position: Position
    said: str


@dataclass(frozen=True)
class Record:
    """A record that is a page or might be one. `read(n)` gives at most n bytes of its body; once, before the next."""

    position: Position
    kind: str
    url: str
    date: datetime | None
    is_truncated: bool
    """By the crawler, which says so."""
    status: int | None
    content_type: str
    transfer_encoding: str
    content_encoding: str
    size_bytes: int
    read: Callable[[int], bytes]


@dataclass(frozen=True)
class Part:
    """The records of a WARC file that start in [start, end) of its bytes; end None: to the last."""

    path: Path
    start: int = 0
    end: int | None = None


def can_be_split(path: Path) -> bool:
    """Whether the records of a file can be found from anywhere in it. Raises `OSError`."""
    with open_to_read(path) as stream:
        start = stream.read(4)
    return not start.startswith((_MAGIC[".zst"], _MAGIC[".lz4"], _ZSTD_DICTIONARY))


def records_of(part: Part, after: Position | None = None, is_lost: bool = False) -> Iterator[Record | Damage]:
    """The records of a part, and what is damaged, in their order.

    `after`: only those behind this one; `is_lost`: what follows it in its member cannot be read, either. Raises
    `OSError` where the file cannot be read at all.
    """
    size_bytes = version_of(part.path)[0]
    with open_to_read(part.path) as stream:
        end = size_bytes if part.end is None else part.end
        yield from _Reading(stream, part.path.suffix, size_bytes, end).run(part, after, is_lost)


class LostBodyError(OSError):
    """A body that is damaged or cut short; the archive says so itself when it is asked for the next record."""


class _Reading:
    """One pass over a part. `gap` is where damage was met, until a record or the end is found behind it."""

    def __init__(self, stream: BinaryIO, suffix: str, size_bytes: int, end: int) -> None:
        self._stream, self._size_bytes, self._end = stream, size_bytes, end
        stream.seek(0)
        start = stream.read(4)
        by_start = [magic for magic in _MAGIC.values() if start.startswith(magic)]
        by_start += [_MAGIC[".zst"]] if start == _ZSTD_DICTIONARY else []
        plain = start == _MARK[:4] or suffix not in _MAGIC  # else damaged at its start
        self._magic = by_start[0] if by_start else None if plain else _MAGIC[suffix]
        self._reader = _READERS.get(self._magic)
        self._gap: tuple[Position, str] | None = None

    def run(self, part: Part, after: Position | None, is_lost: bool) -> Iterator[Record | Damage]:
        at: int | None = after.start if after else part.start
        if is_lost or not after:
            at = self._next_start(at + 1 if is_lost else at, self._end)
        if not after and part.start == 0 and at != 0:
            found_none = at is None and self._end >= self._size_bytes
            reason, said = ("not_warc", "no record") if found_none else ("damaged_record", "no record at its start")
            yield Damage(reason, Position(0, 0), said)
        while at is not None and at < self._end:
            at = yield from self._from(at, after)
            after = None
        if self._gap:
            position, said = self._gap
            is_last = self._end >= self._size_bytes and at is None
            yield Damage("truncated_file" if is_last else "damaged_record", position, said)

    def _from(self, at: int, after: Position | None) -> Iterator[Record | Damage]:
        """Records from the member at `at` on. Returns where to go on behind damage, or None."""
        self._stream.seek(at)
        reader = self._reader(self._stream) if self._reader else self._stream
        position = Position(at, -1)
        try:
            for found in ArchiveIterator(reader, _LOOKED_AT, stream_detect=False):
                start = reader.frame_start_position() if self._reader else found.stream_pos
                position = Position(start, position.number + 1 if start == position.start else 0)
                if start >= self._end:
                    return None
                if after is not None and position <= after:
                    continue
                if _is_cut(found):
                    raise OSError("a record that ends within its headers")
                if self._gap:
                    yield Damage("damaged_record", *self._gap)
                    self._gap = None
                body = _Body(found)
                yield _record(found, position, body)
                if body.error:
                    raise OSError(body.error)
        except BaseException as error:
            if not _is_damage(error):
                raise
            self._gap = self._gap or (Position(position.start, max(0, position.number)), " ".join(str(error).split()))
            return self._next_start(max(position.start, at) + 1, self._end)
        if self._end >= self._size_bytes:
            cut = self._cut_record(position.start + 1 if position.number >= 0 else at)
            self._gap = self._gap or (cut and (cut, "a record that ends within its headers"))
        return None

    def _cut_record(self, at: int) -> Position | None:
        """The last record, which starts at `at` or later, if it is one of which not even the headers are there."""
        last = None
        while (at := self._next_start(at, self._size_bytes)) is not None:
            last, at = at, at + 1
        if last is None:
            return None
        self._stream.seek(last)
        reader = self._reader(self._stream) if self._reader else self._stream
        try:
            found = next(iter(ArchiveIterator(reader, parse_http=False, stream_detect=False)), None)
        except BaseException as error:
            if not _is_damage(error):
                raise
            found = None
        return Position(last, 0) if found is None or _is_cut(found) else None

    def _next_start(self, at: int, end: int) -> int | None:
        """The first byte in [at, end) at which a record can be read, or its compressed member."""
        mark, before = (self._magic, b"") if self._magic else (_MARK, _BEFORE)
        position = max(0, at - len(before))
        kept = b""
        while position < end + len(mark):
            self._stream.seek(position)
            block = self._stream.read(_BLOCK_BYTES)
            if not block:
                return None
            data, base = kept + block, position - len(kept)
            found = data.find(mark)
            while found >= 0:
                start = base + found
                if at <= start < end and self._is_start(start, data[max(0, found - len(before)) : found]):
                    return start
                found = data.find(mark, found + 1)
            kept = data[-(len(mark) + len(before)) :]
            position += len(block)
        return None

    def _is_start(self, start: int, before: bytes) -> bool:
        self._stream.seek(start)
        data = self._stream.read(_PROBE_BYTES)
        if self._reader is None:
            return (start == 0 or before == _BEFORE) and bool(_START.match(data))
        try:
            if self._reader is GzipReader:  # which would look further than that, and stumble over damage there
                return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, len(_MARK)) == _MARK
            return self._reader(io.BytesIO(data)).read(len(_MARK)) == _MARK
        except BaseException as error:
            if not _is_damage(error):
                raise
            return False


class _Body:
    """The body of a record, which may turn out to be damaged when it is read."""

    def __init__(self, record: WarcRecord) -> None:
        self._record, self._left = record, record.content_length
        self.error: str | None = None

    def read(self, most: int) -> bytes:
        """Raises `LostBodyError`."""
        try:
            data = self._record.reader.read(most)
        except BaseException as error:
            if not _is_damage(error):
                raise
            self.error = str(error)
        else:
            if len(data) >= min(most, self._left):
                return data
            self.error = f"{len(data):,} of {self._left:,} bytes"
        raise LostBodyError(self.error)


def _is_damage(error: BaseException) -> bool:
    """Whether an error is about what a file holds. fastwarc panics over damage in what it skips."""
    return isinstance(error, OSError | ValueError | zlib.error) or type(error).__name__ == "PanicException"


def _is_cut(record: WarcRecord) -> bool:
    length = record.headers.get("Content-Length", "")
    empty = record.content_length == 0 and not record.is_http_parsed
    return record.headers.get("WARC-Type") is None or (empty and length.isdecimal() and int(length) > 0)


def _record(found: WarcRecord, position: Position, body: _Body) -> Record:
    headers, http = found.headers, found.http_headers if found.is_http_parsed else None
    told = http if http is not None else headers
    return Record(
        position,
        headers.get("WARC-Type", "").strip().lower(),
        headers.get("WARC-Target-URI", ""),
        _date(headers.get("WARC-Date", "")),
        headers.get("WARC-Truncated") is not None,
        http.status_code if http is not None else None,
        told.get("Content-Type", ""),
        http.get("Transfer-Encoding", "") if http is not None else "",
        http.get("Content-Encoding", "") if http is not None else "",
        found.content_length,
        body.read,
    )


def _date(text: str) -> datetime | None:
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return date.astimezone(UTC) if 1970 <= date.year < 9999 else None
