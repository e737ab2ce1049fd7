"""What became of a run's jobs: `RUN/launch/jobs.jsonl`, one event a line, appended by the commands and by each job."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_seed.checkpoint.layout import finished

NAME = "jobs.jsonl"
Event = dict[str, Any]
"""Has `event` and `time`; the rest depends on the event."""


def launch_dir(run_dir: Path) -> Path:
    """Everything about a run's jobs."""
    return run_dir / "launch"


def log_dir(run_dir: Path, attempt: int) -> Path:
    """Logs of all ranks of one attempt to train."""
    return launch_dir(run_dir) / "logs" / f"attempt-{attempt:04d}"


def saved_step(run_dir: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    found = finished(run_dir)
    return int(found[-1].name.removeprefix("step-")) if found else 0


class History:
    """The events of a run. Reading passes over a line that a kill cut short."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = launch_dir(run_dir) / NAME

    def add(self, event: str, **facts: Any) -> None:
        """Append an event, in one write: where the file system has no locks, others' events seldom come between."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "time": time.time(), **facts}) + "\n"
        with self.path.open("a+b") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            whole = size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write((b"" if whole else b"\n") + line.encode())
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> list[Event]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in found if isinstance(event, dict) and "event" in event]

    def since_submission(self) -> list[Event]:
        """Events from the last submission on."""
        return since_submission(self.events())


def since_submission(events: Sequence[Event]) -> list[Event]:
    starts = [number for number, event in enumerate(events) if event["event"] == "submitted"]
    return list(events[starts[-1] :]) if starts else list(events)


def verdict(events: Sequence[Event]) -> Event | None:
    """The event after which no job of this submission trains any more; None while one may."""
    ends = ("finished", "gave_up", "cancelled")
    return next((event for event in since_submission(events) if event["event"] in ends), None)


def attempts(events: Sequence[Event]) -> int:
    return sum(event["event"] == "attempt" for event in events)


def failures_in_a_row(events: Sequence[Event], saved_now: int) -> list[Event]:
    """Attempts of this submission that ended badly and left no new checkpoint, without one that did in between.

    Each comes with what is known of its end; an attempt without an end was on a node that vanished.
    """
    own = since_submission(events)
    ends = {event["attempt"]: event for event in own if event["event"] == "ended"}
    found: list[Event] = []
    for begin in reversed([event for event in own if event["event"] == "attempt"]):
        if begin["saved"] != saved_now:
            break
        end: Mapping[str, Any] = ends.get(begin["attempt"], {"why": "the node that watched it was lost"})
        if end.get("failed", True):
            found.append({**begin, **end})
    return found[::-1]
