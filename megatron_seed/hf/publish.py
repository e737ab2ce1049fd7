"""Directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_seed.checkpoint.manifest import sync_folder
from megatron_seed.errors import SeedError


@contextlib.contextmanager
def replacing(out: Path, is_ours: Callable[[Path], bool], force: bool) -> Iterator[Path]:
    """Give a temporary directory beside `out`, to be filled and synced; it becomes `out` when the block ends well.

    An `out` that exists is replaced if it is empty, `is_ours(out)` or `force`, and refused with SeedError otherwise.
    """
    if out.exists() and not force and not is_ours(out) and not _is_empty(out):
        raise SeedError(f"{out} exists and was not written by this command: choose another directory, or --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.tmp")
    work.mkdir(exist_ok=True)
    with _locked(work, out):
        try:
            _clear(work)
            yield work
            _swap(work, out)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


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
