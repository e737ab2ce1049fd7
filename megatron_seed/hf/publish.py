"""Directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.filesize import decimal

from megatron_seed.checkpoint.manifest import Entry, digest_files, list_files, sync_folder, write_manifest
from megatron_seed.errors import SeedError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(out: Path, source: Path, is_ours: Callable[[Path], bool], force: bool) -> Iterator[Path]:
    """Give a temporary directory beside `out`, to be filled and synced; it becomes `out` when the block ends well.

    An `out` that exists is replaced if it is empty, `is_ours(out)` or `force`, and refused with SeedError otherwise.
    One that is or holds `source`, which it is made from, is always refused. A link stays, and leads to what was made.
    When the disk is full, the SeedError says so, and nothing is left of what was written.
    """
    if source.resolve().is_relative_to(out.resolve()):
        raise SeedError(f"{out} would take the place of what it is made from, {source}: choose another directory")
    if out.exists() and not force and not is_ours(out) and not _is_empty(out):
        raise SeedError(f"{out} exists and was not written by this command: choose another directory, or --force")
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_name(f".{place.name}.tmp")
    work.mkdir(exist_ok=True)
    with _locked(work, out):
        try:
            _clear(work)
            yield work
            _swap(work, place)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise SeedError(f"{out}: no room left to write it ({error.strerror}); nothing of it is kept") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)  # after a swap there is none


def seal(work: Path, known: Mapping[str, Entry]) -> None:
    """Write the manifest of a finished folder; files whose digest is `known` are not read again."""
    write_manifest(work, digest_files(work, [name for name in list_files(work) if name not in known]) | dict(known))


def check_room(out: Path, size_bytes: int) -> None:
    """Raise SeedError when the disk of `out`, which need not exist, has less room than that."""
    parent = next(path for path in out.resolve().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < size_bytes:
        raise SeedError(f"{out}: {decimal(size_bytes)} are needed, {decimal(free)} are free on that disk")


@contextlib.contextmanager
def _locked(work: Path, out: Path) -> Iterator[None]:
    descriptor = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SeedError(f"{out}: another process is writing it") from error
        yield
    finally:
        os.close(descriptor)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _clear(directory: Path) -> None:
    """Remove what a killed run left."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _swap(work: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.is_dir():
        out.rename(old)
    elif out.exists():
        out.unlink()
    work.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
