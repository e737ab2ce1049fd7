"""WARC files (ISO 28500, WARC/1.1): each page the record of a response, each record a gzip member of its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.shards import write_atomic

_DATE = "2026-01-01T00:00:00Z"
"""Of every record: pages that lie on a disk were fetched at no time, and equal pages give equal files."""
_NAMES = uuid.UUID("9a4c3f0e-6d7b-5e0a-8f1c-2b3d4e5f6a7b")


@dataclass(frozen=True)
class Page:
    """A page as a web server would have answered with it."""

    url: str
    html: bytes
    content_type: str = "text/html"


def write_warc(path: Path, pages: Iterable[Page]) -> int:
    """Writes a `.warc.gz`, whole or not at all; returns its records. Equal pages give equal bytes."""
    records = [_info(path.name), *map(_response, pages)]
    write_atomic(path, lambda stream: stream.write(b"".join(gzip.compress(record, mtime=0) for record in records)))
    return len(records)


def _info(name: str) -> bytes:
    headers = {"WARC-Filename": name, "Content-Type": "application/warc-fields"}
    return _record("warcinfo", name, headers, b"software: megatron-seed\r\nformat: WARC File Format 1.1\r\n")


def _response(page: Page) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.html)}\r\n\r\n"
    digest = base64.b32encode(hashlib.sha1(page.html, usedforsecurity=False).digest()).decode()
    headers = {
        "WARC-Target-URI": page.url,
        "WARC-Payload-Digest": f"sha1:{digest}",
        "Content-Type": "application/http; msgtype=response",
    }
    return _record("response", page.url, headers, head.encode() + page.html)


def _record(kind: str, name: str, headers: dict[str, str], content: bytes) -> bytes:
    identity = uuid.uuid5(_NAMES, f"{kind} {name} {hashlib.sha256(content).hexdigest()}")
    every = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{identity}>",
        "WARC-Date": _DATE,
        **headers,
        "Content-Length": str(len(content)),
    }
    lines = "".join(f"{key}: {value}\r\n" for key, value in every.items())
    return f"WARC/1.1\r\n{lines}\r\n".encode() + content + b"\r\n\r\n"
