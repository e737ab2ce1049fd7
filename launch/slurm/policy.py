"""What to do when an attempt to train has ended; no more than decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from megatron_seed.runtime import exit_codes

_SIGTERM = 128 + 15
_STOPPED = {exit_codes.STOPPED_EARLY, 128 + 10}
"""The second: SIGUSR1, before there was anyone to hear it."""
_MEANINGS = {
    exit_codes.WRONG_INPUT: "something that has to be put right first",
    exit_codes.LOST_PEER: "another process of the job died",
    exit_codes.HUNG: "the job stood still",
    exit_codes.STOPPED_EARLY: "stopped early",
    128 + 9: "killed (out of memory?)",
    128 + 6: "aborted",
    128 + 11: "a segmentation fault",
    _SIGTERM: "ended by SIGTERM",
}

Outcome = Literal["done", "stopped", "wrong_input", "failed"]


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    outcome: Outcome
    why: str


class Act(Enum):
    DONE = "finished"
    AGAIN = "starting again in this job"
    REQUEUE = "back to the queue"
    LEAVE = "leaving"
    GIVE_UP = "giving up"


@dataclass(frozen=True)
class Rules:
    node_counts: tuple[int, ...]
    """Numbers of nodes that the recipe can train on."""
    tries: int
    """Attempts from one checkpoint."""
    requeue: bool
    at_time_limit: Literal["requeue", "next", "end"]


@dataclass(frozen=True)
class Situation:
    end: End
    nodes_left: int
    """Good nodes that the job still has."""
    failures: Sequence[str]
    """Why attempts from the newest checkpoint failed, this one among them."""
    terminated: bool = False
    """Slurm ends the job."""
    time_limit: bool = False
    """Because of its time limit."""
    faulty: Collection[str] = ()
    """Nodes that are not to be used again."""


@dataclass(frozen=True)
class Decision:
    act: Act
    why: str


def read_end(codes: Mapping[int, int], ranks: int, srun_code: int) -> End:
    """The sense of all ranks' exit codes together."""
    silent = [rank for rank in range(ranks) if rank not in codes]
    bad = {rank: code for rank, code in sorted(codes.items()) if code}
    if not silent and not bad:
        return End("done", "trained to the end")
    if _STOPPED & set(bad.values()) and set(bad.values()) <= {*_STOPPED, _SIGTERM}:
        saved = exit_codes.STOPPED_EARLY in bad.values() and not silent
        return End("stopped", "stopped early, saved" if saved else "stopped early")
    if exit_codes.WRONG_INPUT in bad.values():
        first = next(rank for rank, code in bad.items() if code == exit_codes.WRONG_INPUT)
        return End("wrong_input", f"rank {first}: {_MEANINGS[exit_codes.WRONG_INPUT]}, see its log")
    if not codes:
        return End("failed", f"no process told how it ended; srun's exit code was {srun_code}")
    told = _told(bad)
    if silent:
        told.append(f"{_ranks(silent)} vanished without an exit code")
    return End("failed", "; ".join(told))


def _told(bad: Mapping[int, int]) -> list[str]:
    """Causes before consequences."""
    by_code: dict[int, list[int]] = {}
    for rank, code in bad.items():
        by_code.setdefault(code, []).append(rank)
    order = sorted(by_code, key=lambda code: (code == exit_codes.LOST_PEER, code))
    return [f"{_ranks(by_code[code])}: exit code {code}{_meaning(code)}" for code in order]


def _meaning(code: int) -> str:
    return f" ({_MEANINGS[code]})" if code in _MEANINGS else ""


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def decide(now: Situation, rules: Rules) -> Decision:
    """What to do next, and why."""
    end = now.end
    if end.outcome == "done":
        return Decision(Act.DONE, end.why)
    if now.terminated and not now.time_limit:
        return Decision(Act.LEAVE, "Slurm ended the job (cancelled, preempted or requeued by someone)")
    if end.outcome == "wrong_input" and not now.faulty:
        return Decision(Act.GIVE_UP, end.why)
    if len(now.failures) >= rules.tries:
        return Decision(Act.GIVE_UP, f"{len(now.failures)} attempts left no new checkpoint: {'; '.join(now.failures)}")
    if end.outcome == "stopped" or now.terminated:
        if rules.at_time_limit == "requeue":
            return Decision(Act.REQUEUE, end.why)
        what = {"next": "the next job of the chain goes on", "end": "start it again to go on"}[rules.at_time_limit]
        return Decision(Act.LEAVE, f"{end.why}; {what}")
    if now.nodes_left >= min(rules.node_counts):
        return Decision(Act.AGAIN, end.why)
    lack = f"{now.nodes_left} good nodes are left, {min(rules.node_counts)} are needed"
    if rules.requeue:
        return Decision(Act.REQUEUE, f"{end.why}; {lack}")
    return Decision(Act.LEAVE, f"{end.why}; {lack}, and the job may not be requeued")
