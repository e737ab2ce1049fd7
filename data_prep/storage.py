"""Where files lie: on a disk (a path, or a `file://` URL) or in an object store (`s3://`).

Everything else handles both as paths with the same methods: `pathlib.Path`, or a `UPath` for an object store. Here is
what differs. An object store has no rename: a file is written to a local temporary file and put whole, and what has
several files counts once the one that is written last is there (see `data_prep.shards`). Parquet and runs are read in
ranges; nothing is ever mapped into memory from there. Credentials and the endpoint come from where AWS's own tools take
them (environment, `~/.aws`), never from a URL.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError

_READ_BYTES = 1 << 20  # that a read from an object store brings at least
_REQUESTS = 32  # at a time


def as_path(location: Any) -> Path:
    """The path of a file name, a `file://` or `s3://` URL, or a path. Raises `DataError` for another kind of URL."""
    text = os.fspath(location) if isinstance(location, str | os.PathLike) else location
    if not isinstance(text, str) or "://" not in text:
        return Path(text) if isinstance(text, str) else location
    scheme = urlsplit(text).scheme
    if scheme == "file":
        return Path(unquote(urlsplit(text).path))
    if scheme != "s3":
        raise DataError(f"{text}: {scheme}:// cannot be read or written; give a path, file:// or s3://")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError:
        raise DataError(f"{text}: needs s3fs: pip install -e '.[s3]' in the checkout") from None
    return UPath(text, use_listings_cache=False)  # others write there too


def is_remote(path: Any) -> bool:
    """Whether a path is in an object store."""
    return not isinstance(path, Path)


def open_to_read(path: Path) -> BinaryIO:
    """A file to read from, seekable, in ranges of some size where it is remote."""
    if is_remote(path):
        return path.fs.open(path.path, "rb", block_size=_READ_BYTES, cache_type="readahead")
    return open(path, "rb")


@contextlib.contextmanager
def open_parquet(path: Path, **options: Any) -> Iterator[pq.ParquetFile]:
    """A parquet file; `options` as of `pyarrow.parquet.ParquetFile`."""
    if not is_remote(path):
        with pq.ParquetFile(path, **options) as file:
            yield file
        return
    with open_to_read(path) as stream, pq.ParquetFile(stream, **options) as file:
        yield file


def read_parquet(path: Path, columns: Sequence[str] | None = None, use_threads: bool = True) -> pa.Table:
    """A whole parquet table, or some columns of it."""
    columns = None if columns is None else list(columns)
    if not is_remote(path):
        return pq.read_table(path, columns=columns, use_threads=use_threads)
    with open_parquet(path) as file:
        return file.read(columns=columns, use_threads=use_threads)


def read_parquet_schema(path: Path) -> pa.Schema:
    if not is_remote(path):
        return pq.read_schema(path)
    with open_parquet(path) as file:
        return file.schema_arrow


def open_array(path: Path) -> np.ndarray:
    """An `.npy` file: mapped into memory from a disk, read whole from an object store."""
    if not is_remote(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)


def read_arrow(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of an Arrow file, or some columns of it; mapped into memory from a disk."""
    if not is_remote(path):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        return table if columns is None else table.select(columns)
    if columns is None:
        return pa.ipc.open_file(read_bytes(path)).read_all()
    with open_to_read(path) as stream:
        names = pa.ipc.open_file(stream).schema.names
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        return pa.ipc.open_file(stream, options=options).read_all().select(columns)


class RemoteKeys:
    """The field `key` (the first, uint64) of the records of a remote `.npy` file, one by one, and slices of them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        (self._length,), _, self._dtype = read_header[version](stream)
        self._start = stream.tell()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        self._stream.seek(self._start + index * self._dtype.itemsize)
        return int.from_bytes(self._stream.read(8), "little")

    def records(self, start: int, stop: int) -> np.ndarray:
        self._stream.seek(self._start + start * self._dtype.itemsize)
        return np.frombuffer(self._stream.read((stop - start) * self._dtype.itemsize), self._dtype)


def read_bytes(path: Path) -> bytes:
    """A small file; from an object store with a single request. Raises `OSError`."""
    return path.fs.cat_file(path.path) if is_remote(path) else path.read_bytes()


def remove_file(path: Path) -> None:
    """Removes a file, if it is there."""
    if is_remote(path):
        path.fs.rm_file(path.path)  # which says nothing of one that is not there
    else:
        path.unlink(missing_ok=True)


def each(function: Callable[[Any], Any], items: Sequence[Any], first_path: Path | None = None) -> list[Any]:
    """`function` of every item; many requests at a time where the files it looks at are remote."""
    if first_path is None or not is_remote(first_path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, items))


def version_of(path: Path) -> tuple[int, int | str]:
    """(size in bytes, what changes with the content: time of change, or ETag)."""
    if is_remote(path):
        found = path.fs.info(path.path)
        return found["size"], found["ETag"]
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def beside(path: Path, name: str) -> Path:
    """The file `name`, a relative path that may begin with `..`, in the folder of `path`."""
    found = path.parent
    for part in name.split("/"):
        found = found.parent if part == ".." else found / part
    return found


def put(stream: BinaryIO, path: Path) -> None:
    """Puts a local temporary file into an object store: there it is whole, or not at all."""
    stream.flush()
    path.fs.put_file(stream.name, path.path)


def move(path: Path, target: Path) -> None:
    if is_remote(path):
        path.fs.mv(path.path, target.path)
    else:
        os.replace(path, target)


def remove_folder(folder: Path) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if is_remote(folder):
        with contextlib.suppress(FileNotFoundError):
            folder.fs.rm(folder.path, recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty local folder for the time of a step: `parent/name`, or a temporary one where `parent` is remote."""
    if is_remote(parent):
        with tempfile.TemporaryDirectory(prefix="megatron-seed-") as folder:
            yield Path(folder)
        return
    folder = parent / name
    shutil.rmtree(folder, ignore_errors=True)  # a killed run may have left one
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_words(error: Exception) -> str:
    """What went wrong with a file or a store, on one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:300]
