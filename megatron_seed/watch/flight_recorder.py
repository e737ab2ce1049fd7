"""torch's flight recorder: the collectives that a process took part in, and which rank does not fit the others."""

from __future__ import annotations

import os
import pickle
import sys
import sysconfig
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_KEPT = 2000
_AGREEING = 5
"""Calls that are compared to tell one left out from one too many."""
_SAME_SHAPE_ON_ALL = {"all_reduce", "broadcast", "reduce", "allreduce_coalesced"}
_TYPES = {
    "Byte": "uint8",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
}
_OUR_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Call:
    """One collective as one rank called it."""

    group: str
    """Name of the process group, the same on all its ranks."""
    number: int
    """Counted within the group; the same on all its ranks as long as they agree."""
    op: str
    """Such as `all_reduce`."""
    shape: str
    """Sizes and types of the input."""
    place: str
    """Where it was called."""
    waiting: bool
    """It has not come about, for so long that it will not."""

    def signature(self) -> Hashable:
        """The same for all ranks' parts of one collective."""
        return self.op, self.shape if self.op in _SAME_SHAPE_ON_ALL else None

    def origin(self) -> Hashable:
        """Tells calls of different places apart, even where they fit each other."""
        return self.op, self.shape, self.place

    def __str__(self) -> str:
        return f"{self.op} {self.shape}".strip()


@dataclass(frozen=True)
class Misfit:
    """A collective that does not come about, and the ranks because of which it does not."""

    call: Call
    """As the ranks that wait called it."""
    waiting: tuple[int, ...]
    ranks: tuple[int, ...]
    """To blame."""
    what: str
    """What these ranks did, as a sentence without its subject."""


def enable() -> None:
    """Have collectives recorded; to be called before the first process group is made."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(_KEPT))


def read_calls(settled_s: float, last: int = 200) -> list[Call]:
    """This process's collectives, oldest first, at most `last` of each group; none where nothing was recorded.

    One that was called less than `settled_s` ago does not count as waiting.
    """
    try:
        # Of this process's own making.
        record = pickle.loads(torch._C._distributed_c10d._dump_fr_trace())  # noqa: S301
    except (AttributeError, RuntimeError):
        return []
    calls: dict[str, list[Call]] = {}
    for entry in record.get("entries", ()):
        if not entry["is_p2p"]:
            call = _call(entry, settled_s)
            calls.setdefault(call.group, []).append(call)
    return [call for of_group in calls.values() for call in of_group[-last:]]


def read_groups() -> dict[str, list[int]]:
    """Ranks of each process group that this process is in, by the group's name."""
    world = dist.distributed_c10d._world
    return {name: sorted(world.pg_group_ranks[group]) for group, name in world.pg_names.items()}


def _call(entry: Mapping[str, Any], settled_s: float) -> Call:
    sizes = zip(entry["input_sizes"], entry["input_dtypes"], strict=False)
    shape = ", ".join(f"[{', '.join(map(str, size))}] {_TYPES.get(dtype, dtype)}" for size, dtype in sizes)
    frames = [(frame["filename"], frame["line"], frame["name"]) for frame in entry.get("frames", ())]
    age_s = time.time() - entry["time_created_ns"] / 1e9
    return Call(
        group=entry["process_group"][0],
        number=entry["collective_seq_id"],
        op=entry["profiling_name"].partition(":")[2],
        shape=shape,
        place=describe_place(frames),
        waiting=not entry["retired"] and age_s >= settled_s,
    )


Stack = list[tuple[str, int, str]]
"""(file, line, function), innermost first."""


def in_our_code(stack: Stack) -> bool:
    return any(file.startswith(_OUR_PACKAGE) for file, _, _ in stack)


def describe_place(stack: Stack) -> str:
    """Where a stack stands: the innermost line that is not torch's or Python's own, and the innermost of ours."""
    frames = [frame for frame in stack if not _is_library(frame[0])]
    if not frames:
        return "an unknown place"
    ours = next((frame for frame in frames if frame[0].startswith(_OUR_PACKAGE)), None)
    place = _short(frames[0])
    return place if ours in (None, frames[0]) else f"{place}, from {_short(ours)}"


def stack_of_thread(thread: int) -> Stack:
    """Of a thread of this process, by its `ident`."""
    frame = sys._current_frames().get(thread)
    frames = []
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return frames


def _is_library(file: str) -> bool:
    standard = sysconfig.get_path("stdlib")
    return (
        file.startswith("<")
        or "/site-packages/torch/" in file
        or (file.startswith(standard) and "/site-packages/" not in file)
    )


def _short(frame: tuple[str, int, str]) -> str:
    file, line, function = frame
    if file.startswith(_OUR_PACKAGE):
        file = str(Path(file).relative_to(Path(_OUR_PACKAGE).parent))
    elif "/site-packages/" in file:
        file = file.partition("/site-packages/")[2]
    return f"{file}:{line} ({function})"


def find_misfits(calls: Mapping[int, Sequence[Call]], groups: Mapping[str, Sequence[int]]) -> list[Misfit]:
    """What the ranks' calls disagree on, the likeliest cause first; nothing where no rank waits in a collective.

    `calls` has each rank's, oldest first; one that gave none takes part in nothing. `groups` has each group's ranks.
    """
    found = []
    for group, ranks in groups.items():
        by_rank = {rank: {call.number: call for call in calls.get(rank, ()) if call.group == group} for rank in ranks}
        misfit = _misfit_in(by_rank)
        if misfit:
            found.append(misfit)
    stuck = {rank for misfit in found for rank in misfit.waiting}
    # A rank that is missed here because it waits elsewhere is not the cause; one that nobody waits with is.
    return sorted(found, key=lambda misfit: (bool(stuck & set(misfit.ranks)), len(misfit.ranks)))


def _misfit_in(calls: Mapping[int, Mapping[int, Call]]) -> Misfit | None:
    """Of one group: {rank: {number: call}}."""
    waiting_in = {call.number for numbered in calls.values() for call in numbered.values() if call.waiting}
    if not waiting_in:
        return None
    return _out_of_step(calls) or next(filter(None, (_unlike(calls, number) for number in sorted(waiting_in))), None)


def _unlike(calls: Mapping[int, Mapping[int, Call]], number: int) -> Misfit | None:
    """Who called something else under this number, or has not come so far."""
    there = {rank: numbered[number] for rank, numbered in calls.items() if number in numbered}
    joined = _most_alike(there, Call.signature)
    usual = there[joined[0]]
    others = [rank for rank in there if rank not in joined]
    if others:
        other = there[others[0]]
        return Misfit(usual, joined, tuple(others), f"called {other} at {other.place} instead of")
    missing = tuple(rank for rank, numbered in calls.items() if max(numbered, default=0) < number)
    return Misfit(usual, joined, missing, "never joined") if missing else None


def _out_of_step(calls: Mapping[int, Mapping[int, Call]]) -> Misfit | None:
    """The first call that a rank left out or made in addition: from there on its next calls are the others' last.

    Like calls pair up all the same, so the job comes to a stop later, in another collective.
    """
    for number in sorted({number for numbered in calls.values() for number in numbered}):
        there = {rank: numbered[number] for rank, numbered in calls.items() if number in numbered}
        joined = _most_alike(there, Call.origin)
        usual = calls[max(joined, key=lambda rank: len(calls[rank]))]
        for rank in there.keys() - set(joined):
            own = calls[rank]
            if _agree(own, number, usual, number + 1):
                return Misfit(usual[number], joined, (rank,), "left out")
            if _agree(own, number + 1, usual, number):
                what = f"called {own[number]} at {own[number].place}, which the others did not, before"
                return Misfit(usual[number], joined, (rank,), what)
    return None


def _agree(one: Mapping[int, Call], first: int, other: Mapping[int, Call], others_first: int) -> bool:
    """Whether the next calls of two ranks are the same from these numbers on."""
    pairs = [(one.get(first + n), other.get(others_first + n)) for n in range(_AGREEING)]
    known = [(a.origin(), b.origin()) for a, b in pairs if a and b]
    return bool(known) and all(a == b for a, b in known)


def _most_alike(calls: Mapping[int, Call], key: Callable[[Call], Hashable]) -> tuple[int, ...]:
    """The largest set of ranks whose calls have the same key."""
    classes: dict[Hashable, list[int]] = {}
    for rank, call in calls.items():
        classes.setdefault(key(call), []).append(rank)
    return tuple(max(classes.values(), key=len))
