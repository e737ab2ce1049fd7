"""A run folder of a quickstart: whose it is, what it was asked for, and who works in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.shards import write_json
from launch.stages import move_aside
from megatron_seed.errors import SeedError

NOTE = "quickstart.json"


@contextlib.contextmanager
def own_folder(run_dir: Path, corpus: Path | None, asked: Mapping[str, Any], console: Console) -> Iterator[None]:
    """Hold the run folder for this process and the commands it starts; one made with other settings is moved aside.

    `asked`, JSON values, is noted in it. Raises SeedError for a folder that is something else's, that another process
    works in, or that would become part of `corpus`.
    """
    _check_folders(run_dir, corpus)
    if (run_dir / NOTE).exists() and _noted(run_dir) != asked:
        with _locked(run_dir):
            aside = move_aside(run_dir)
        say(console, f"{run_dir} was made with other settings: moved to {aside}")
    run_dir.mkdir(parents=True, exist_ok=True)
    with _locked(run_dir):
        _remove_leftovers(run_dir)
        if _noted(run_dir) != asked:
            write_json(run_dir / NOTE, asked)
        yield


def say(console: Console, line: str) -> None:
    """A line as it is: paths may hold anything, and must not be broken where they are to be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _check_folders(run_dir: Path, corpus: Path | None) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise SeedError(f"--run-dir {run_dir} is not a folder")
    if run_dir.is_dir() and not (run_dir / NOTE).exists():
        found = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
        if found:
            raise SeedError(
                f"--run-dir {run_dir} holds {found[0]} but no {NOTE}, so it is no quickstart's: name a new folder"
            )
    if corpus is None:
        return
    code, run = corpus.resolve(), run_dir.resolve()
    if run.is_relative_to(code) or code.is_relative_to(run):
        raise SeedError(
            f"--run-dir {run_dir} and --corpus {corpus} lie in one another: what the run writes would become "
            "its data; name a run folder elsewhere"
        )


def _remove_leftovers(run_dir: Path) -> None:
    """What killed stages were writing; each has a name that nobody else uses."""
    for path in [*run_dir.glob(".*.tmp"), *run_dir.glob(".*.old")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _noted(run_dir: Path) -> Any:
    try:
        return json.loads((run_dir / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """The kernel's lock on the run folder. Commands started meanwhile inherit it and hold it as long as they live."""
    with open(run_dir / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SeedError(
                f"{run_dir} is in use by {lock.read(80).strip()} or by what it started: wait for it to end, or stop it"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        os.set_inheritable(lock.fileno(), True)
        yield
