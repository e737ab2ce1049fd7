"""Shard functions that misbehave on a node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import BinaryIO


def squares(stream: BinaryIO, number: int) -> dict[str, int]:
    stream.write(f"{number * number} on any machine".encode())
    return {"rows": 1}


def dies_twice(stream: BinaryIO, number: int, marks: Path) -> dict[str, int]:
    """Killed on the first two attempts at shard 3."""
    attempt = len(list(marks.iterdir()))
    if number == 3 and attempt < 2:
        (marks / str(attempt)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(stream, number)


def refuses(stream: BinaryIO, number: int) -> dict[str, int]:
    if number == 2:
        raise ValueError("number two is not to be had")
    return squares(stream, number)


def sleeps(stream: BinaryIO, number: int, marks: Path) -> dict[str, int]:
    (marks / str(number)).touch()
    time.sleep(600)
    return squares(stream, number)
