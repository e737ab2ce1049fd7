"""The body of a response as it was written: without chunks, decompressed, each within bounds."""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader

_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(;[^\r\n]*)?\r?\n")
_MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
_NAMES = {"x-gzip": "gzip", "gzip": "gzip", "deflate": "deflate", "br": "br", "zstd": "zstd"}
_READ_BYTES, _CAREFUL_BYTES = 1 << 16, 1 << 6
_FREE_BYTES = 1 << 20  # that a page may have, however little was sent
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_UNTOLD_TYPES = ("", "text/plain", "application/octet-stream", "unknown/unknown", "application/xml", "text/xml")
_HTML_START = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}\?>\s*)?(?:<!--.{0,1000}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_STARTS = (b"%PDF-", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x7fELF")
_SNIFFED_BYTES = 2048


class BodyError(ValueError):
    """A body that is not taken; `reason` is why."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(said)
        self.reason = reason


@dataclass(frozen=True)
class BodyLimits:
    """Of what a body decompresses to."""

    max_bytes: int
    max_ratio: float


def decoded_body(data: bytes, transfer_encoding: str, content_encoding: str, limits: BodyLimits) -> bytes:
    """A body without its transfer and content encodings, as far as it really has them.

    Crawlers take encodings off and leave the headers, or the other way round: what the bytes are counts. A body that is
    cut short gives what there is of it. Raises `BodyError`.
    """
    sent = len(data)
    if "chunked" in transfer_encoding.lower() and _CHUNK.match(data):
        data = _read(ChunkedReader, data, sent, limits)
    names = [_NAMES.get(name.strip().lower()) for name in content_encoding.split(",")]
    for name in reversed([name for name in names if name]):
        data = _without(data, name, sent, limits)
    for name, magic in _MAGIC.items():  # not declared, or sent compressed twice
        if data.startswith(magic):
            data = _without(data, name, sent, limits)
    if len(data) > limits.max_bytes:
        raise BodyError("too_large", f"{len(data):,} bytes")
    return data


def _without(data: bytes, name: str, sent: int, limits: BodyLimits) -> bytes:
    magic = _MAGIC.get(name)
    if magic and not data.startswith(magic):
        return data
    if name == "br":
        return data if data.lstrip()[:1] == b"<" else _read(BrotliReader, data, sent, limits)
    if name == "deflate":
        return data if data.lstrip()[:1] == b"<" else _inflated(data, sent, limits)
    return _read(GzipReader if name == "gzip" else ZstdReader, data, sent, limits)


def _inflated(data: bytes, sent: int, limits: BodyLimits) -> bytes:
    """`deflate` should be a zlib stream; some servers send it bare."""

    def bare(stream: io.BytesIO) -> "_Inflater":
        return _Inflater(stream, zlib.decompressobj(-zlib.MAX_WBITS))

    is_zlib = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _read((lambda stream: GzipReader(stream, zlib=True)) if is_zlib else bare, data, sent, limits)


class _Inflater:
    def __init__(self, stream: io.BytesIO, engine) -> None:
        self._data, self._engine = stream.read(), engine

    def read(self, size: int) -> bytes:
        try:
            out = self._engine.decompress(self._data, size)
        except zlib.error as error:
            raise OSError(str(error)) from None
        self._data = self._engine.unconsumed_tail
        return out


def _read(reader: Callable, data: bytes, sent: int, limits: BodyLimits) -> bytes:
    """All that a reader gives, within bounds; of a damaged or cut stream what can be read before that."""
    parts: list[bytes] = []
    said = None
    for step in (_READ_BYTES, _CAREFUL_BYTES):  # a read that fails gives nothing, so what is damaged is read in bits
        parts.clear()
        try:
            for part in _bounded(reader(io.BytesIO(data)), step, sent, limits):
                parts.append(part)
            break
        except OSError as error:
            said = " ".join(str(error).split())
    if said and not parts:
        raise BodyError("bad_encoding", said)
    return b"".join(parts)


def _bounded(stream: Any, step: int, sent: int, limits: BodyLimits) -> Iterator[bytes]:
    size = 0
    while part := stream.read(step):
        yield part
        size += len(part)
        if size > _FREE_BYTES and size > limits.max_ratio * sent:
            raise BodyError("bomb", f"{sent:,} bytes sent")
        if size > limits.max_bytes:
            raise BodyError("too_large", f"more than {limits.max_bytes:,} bytes")


def can_be_html(content_type: str) -> bool:
    """Whether a body is worth looking at: declared as HTML, or as nothing in particular."""
    return _kind(content_type) in (*_HTML_TYPES, *_UNTOLD_TYPES)


def is_html(content_type: str, data: bytes) -> bool:
    """Whether a body is HTML: it is declared so and is no file of another kind, or it starts like it."""
    if _kind(content_type) in _HTML_TYPES:
        return not data.startswith(_OTHER_STARTS)
    return bool(_HTML_START.match(data[:_SNIFFED_BYTES]))


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
