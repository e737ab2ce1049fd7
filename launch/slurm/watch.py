"""`megatron-seed launch status`, `cancel` and `logs`."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.report.formats import visible
from launch.slurm import control
from launch.slurm.history import Event, History, launch_dir, saved_step, verdict
from megatron_seed.errors import SeedError
from megatron_seed.train import metrics

_RATE_OVER_ROWS = 50


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    state: str
    jobs: dict[str, str]
    """Those that Slurm still has, and their states."""
    step: int
    saved_step: int
    tokens: int
    tokens_in_all: int
    tokens_per_second: float | None
    """Median of the last rows."""
    days_left: float | None
    """At that rate, without waiting in queues."""
    attempts: tuple[Event, ...]
    """Each with what is known of its end."""
    left_out: dict[str, str]
    """Nodes, and why."""


def read_status(run_dir: Path) -> Status:
    """SeedError where nothing of the run was ever submitted."""
    events = _events(run_dir)
    alive = _alive(events)
    rows = deque((row for row in metrics.read(run_dir) if row.get("kind") == "train"), maxlen=_RATE_OVER_ROWS)
    rates = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
    rate = statistics.median(rates) if rates else None
    tokens = rows[-1]["tokens"] if rows else 0
    in_all = next((event["tokens"] for event in reversed(events) if "tokens" in event), 0)
    ends = {event["attempt"]: event for event in events if event["event"] == "ended"}
    attempts = [event for event in events if event["event"] == "attempt"]
    return Status(
        state=_state(events, alive),
        jobs={job: state for job, (state, _) in alive.items()},
        step=rows[-1]["step"] if rows else 0,
        saved_step=saved_step(run_dir),
        tokens=tokens,
        tokens_in_all=in_all,
        tokens_per_second=rate,
        days_left=max(0, in_all - tokens) / rate / 86_400 if rate else None,
        attempts=tuple({**event, "end": ends.get(event["attempt"])} for event in attempts),
        left_out={event["node"]: event["why"] for event in events if event["event"] == "node_left_out"},
    )


def _events(run_dir: Path) -> list[Event]:
    events = History(run_dir).events()
    if not events:
        raise SeedError(f"{run_dir}: no job of this run was submitted with `launch run --submit`")
    return events


def _alive(events: Sequence[Event]) -> dict[str, tuple[str, str]]:
    jobs = {job: None for event in events for job in [*event.get("jobs", []), event.get("job")] if job}
    try:
        states = control.job_states(list(jobs))
    except control.SlurmError as error:
        raise SeedError(f"Slurm cannot be asked: {error}") from None
    return {job: known for job, known in states.items() if known[0] in control.ALIVE}


def _state(events: Sequence[Event], alive: dict[str, tuple[str, str]]) -> str:
    end = verdict(events)
    if end:
        return end["event"].replace("_", " ") + (f": {end['why']}" if "why" in end else "")
    for wanted in ("RUNNING", "COMPLETING", "CONFIGURING"):
        found = next((job for job, (state, _) in alive.items() if state == wanted), None)
        if found:
            return f"{wanted.lower()} (job {found})"
    if alive:
        job, (state, reason) = next(iter(alive.items()))
        return f"{state.lower()} (job {job}: {reason})"
    last = next((event for event in reversed(events) if event["event"] in ("left", "requeued")), {})
    why = f": {last['why']}" if "why" in last else ""
    return f"not finished, and no job is left{why}; submit it again to go on"


def print_status(run_dir: Path, console: Console) -> None:
    status = read_status(run_dir)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _rows(status):
        table.add_row(name, Text(visible(value)))
    console.print(table)
    for number, attempt in enumerate(status.attempts):
        end = attempt["end"]
        began = time.strftime("%m-%d %H:%M:%S", time.localtime(attempt["time"]))
        took = f"{end['time'] - attempt['time']:,.0f} s" if end else "?"
        running = number == len(status.attempts) - 1 and status.state.startswith("running")
        why = end["why"] if end else "running" if running else "the node that watched it was lost"
        line = (
            f"attempt {attempt['attempt']} (job {attempt['job']}, {began}, from step {attempt['saved']}, "
            f"{len(attempt['nodes'])} nodes, {took}): {why}"
        )
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    for node, why in status.left_out.items():
        console.print(visible(f"node {node} was left out: {why}"), markup=False, highlight=False, soft_wrap=True)


def _rows(status: Status) -> Iterator[tuple[str, str]]:
    yield "state", status.state
    yield "jobs", ", ".join(f"{job} {state.lower()}" for job, state in status.jobs.items()) or "none"
    yield "step", f"{status.step:,} (saved: {status.saved_step:,})"
    share = f" of {status.tokens_in_all:,} ({status.tokens / status.tokens_in_all:.1%})" if status.tokens_in_all else ""
    yield "tokens", f"{status.tokens:,}{share}"
    if status.tokens_per_second:
        yield "rate", f"{status.tokens_per_second:,.0f} tokens per second"
        yield "days left", f"{status.days_left:.2f}"
    yield "restarts", str(max(0, len(status.attempts) - 1))


def cancel_run(run_dir: Path, now: bool) -> dict[str, str]:
    """End all jobs of a run, those that train once they have saved unless it is to be `now`; what was done, by job."""
    events = _events(run_dir)
    alive = _alive(events)
    if alive:
        History(run_dir).add("cancelled")
    running = [job for job, (state, _) in alive.items() if state == "RUNNING" and not now]
    try:
        control.cancel(running, "--signal=USR1")
        control.cancel([job for job in alive if job not in running])
    except control.SlurmError as error:
        raise SeedError(f"not all jobs of {run_dir} could be cancelled: {error}") from None
    return {job: "told to save and end" if job in running else "cancelled" for job in alive}


def print_log(run_dir: Path, rank: int, attempt: int | None, lines: int | None, follow: bool) -> None:
    """The output of one process; of the newest attempt unless another is asked for."""
    path = _log(run_dir, rank, attempt)
    print(f"==> {path}", file=sys.stderr)
    with path.open("rb") as file:
        shown: Any = file if lines is None else deque(file, maxlen=lines)
        for line in shown:
            sys.stdout.buffer.write(line)
        sys.stdout.flush()
        while follow:
            if block := file.read():
                sys.stdout.buffer.write(block)
                sys.stdout.flush()
            elif path.with_suffix(".exit").exists():
                return
            time.sleep(0.5)


def _log(run_dir: Path, rank: int, attempt: int | None) -> Path:
    folder = launch_dir(run_dir) / "logs"
    number = "*" if attempt is None else f"{attempt:04d}"
    found = sorted(folder.glob(f"attempt-{number}/rank-{rank}.log"))
    if not found:
        which = "no attempt" if attempt is None else f"attempt {attempt}"
        raise SeedError(f"{folder}: there is no log of rank {rank} of {which}")
    return found[-1]
