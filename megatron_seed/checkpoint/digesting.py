"""Files digested as they are written, past the system's page cache where the file system allows it.

A cache that nobody reads from costs a copy and a page for every 4 kB: two fifths of the processor time of a save, which
training would have had, and memory that the system has to find elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

Entry = dict[str, int | str]
"""Size and SHA-256 of a file."""
_BLOCK = 1 << 21
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux


class DigestingFile:
    """A file written from its beginning to its end, digested on the way: it need not be read again.

    As a context it ends with everything forced to disk. Errors name the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.error: OSError | None = None
        """The first one; torch.save hides it behind one of its own."""
        self._digest = hashlib.sha256()
        self._block = mmap.mmap(-1, _BLOCK)  # whole pages, as direct writes want them
        self._filled = 0
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._set_direct(True)

    def write(self, data: bytes | memoryview) -> int:
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        while rest:
            part = rest[: _BLOCK - self._filled]
            self._block[self._filled : self._filled + part.nbytes] = part
            self._filled += part.nbytes
            if self._filled == _BLOCK:
                self._empty()
            rest = rest[part.nbytes :]
        self.size_bytes += size
        return size

    def flush(self) -> None:
        """Everything is flushed at the end."""

    def tell(self) -> int:
        return self.size_bytes

    @property
    def entry(self) -> Entry:
        """Of a file that is finished."""
        return {"size_bytes": self.size_bytes, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> DigestingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError), self._noting_errors():
            if kind is None:
                self._set_direct(False)  # the end is no whole page
                self._empty()
                os.fsync(self._handle)
        with contextlib.suppress(OSError), self._noting_errors():
            os.close(self._handle)
        if self.error is not None:
            raise self.error

    def _empty(self) -> None:
        """Digest what the block holds, while a processor's cache has it, and write it."""
        with self._noting_errors(), memoryview(self._block)[: self._filled] as rest:
            self._digest.update(rest)
            while rest:
                rest = rest[self._write(rest) :]
            self._filled = 0

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._handle, data)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            # A file system that takes the flag and refuses the write, or the rest of a block that was cut short.
            self._set_direct(False)
            return os.write(self._handle, data)

    def _set_direct(self, direct: bool) -> None:
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~_DIRECT
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._handle, fcntl.F_SETFL, flags | (_DIRECT if direct else 0))
        self._direct = direct

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            named = error if error.filename else OSError(error.errno, error.strerror, str(self.path))
            self.error = self.error or named
            raise
