"""Marks of runs, for tasks that may outlive the process that gave them out: one whose mark is gone does no more.

A mark is a file in `engine`, in the folder that a command holds while it runs. Whoever holds that folder next removes
it: what the tasks of a killed run would still write may be older than what is written from then on.
"""

import secrets
from pathlib import Path

from data_prep.storage import is_remote, read_bytes, remove_file

FOLDER = "engine"


def begin_run(place: Path) -> Path:
    """The mark of a new run, in `place`; those of earlier runs are removed."""
    if not is_remote(place):
        place.mkdir(parents=True, exist_ok=True)
    end_runs(place)
    mark = place / f"run-{secrets.token_hex(8)}"  # a new name: no machine can have seen that it is not there
    mark.write_bytes(b"")
    return mark


def end_runs(place: Path) -> None:
    for mark in place.glob("run-*"):
        remove_file(mark)


def goes_on(mark: Path) -> bool:
    """Whether a mark is there. Raises `OSError` where that cannot be told."""
    try:
        read_bytes(mark)  # not its status alone, which a machine may remember
    except FileNotFoundError:
        return False
    return True
