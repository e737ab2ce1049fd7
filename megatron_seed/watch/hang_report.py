"""What a process that stands still says of itself, and what the reports of all say together."""

from __future__ import annotations

import faulthandler
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from megatron_seed.watch import peers
from megatron_seed.watch.flight_recorder import (
    Call,
    describe_place,
    find_misfits,
    in_our_code,
    read_calls,
    read_groups,
    stack_of_thread,
)

_CALLS_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """One process that stands still."""

    rank: int
    host: str
    pid: int
    idle_s: float
    """Since it finished something."""
    finished: str
    """What that was."""
    doing: str
    """What it said that it is at since; may be empty."""
    place: str
    """Where its main thread stands."""
    others: tuple[str, ...]
    """Where its other threads stand that are in our code."""
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Its process groups: ranks by name."""
    calls: Sequence[Call] = ()
    """Its last collectives, oldest first."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        calls = [Call(**call) for call in values["calls"]]
        return cls(**{**values, "calls": calls, "others": tuple(values["others"])})


def take_report(
    rank: int, host: str, pid: int, *, idle_s: float, finished: str, doing: str, settled_s: float
) -> Report:
    """Of this process, now. A collective that has waited for less than `settled_s` may still come about."""
    main = threading.main_thread()
    stacks = {
        thread.name: stack_of_thread(thread.ident or 0)
        for thread in threading.enumerate()
        if thread not in (main, threading.current_thread()) and thread.name != peers.THREAD
    }
    return Report(
        rank=rank,
        host=host,
        pid=pid,
        idle_s=idle_s,
        finished=finished,
        doing=doing,
        place=describe_place(stack_of_thread(main.ident or 0)),
        others=tuple(
            f"thread {name} at {describe_place(stack)}" for name, stack in stacks.items() if in_our_code(stack)
        ),
        groups=read_groups(),
        calls=read_calls(settled_s),
    )


def write_report(report: Report, file: TextIO, folder: Path) -> None:
    """For a person, with the stacks of all threads, to `file`; for programs beside it, as rank-N.json."""
    print(
        f"rank {report.rank} on {report.host}, process {report.pid}: nothing finished for {report.idle_s:.0f} s, "
        f"since {report.finished}{', ' + report.doing if report.doing else ''}\n",
        file=file,
    )
    file.flush()
    faulthandler.dump_traceback(file, all_threads=True)
    print("\nlast collectives of each process group, newest last:", file=file)
    for name, ranks in report.groups.items():
        calls = [call for call in report.calls if call.group == name][-_CALLS_SHOWN:]
        if calls:
            print(f"  group {name} of ranks {list_ranks(ranks)}", file=file)
        for call in calls:
            state = "waiting" if call.waiting else "done"
            print(f"    {call.number:6d}  {state:7s}  {call}, called at {call.place}", file=file)
    file.flush()
    (folder / f"rank-{report.rank}.json").write_text(json.dumps(report.as_json()), encoding="utf-8")


def read_reports(folder: Path) -> dict[int, Report]:
    """Of all ranks whose files can be seen here."""
    found = {}
    for path in folder.glob("rank-*.json"):
        try:
            report = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):  # just being written
            continue
        found[report.rank] = report
    return found


def summarise(reports: Mapping[int, Report], world_size: int, hosts: Mapping[int, str]) -> str:
    """One line: which rank does not fit, and in which collective; where nothing tells, where each rank stands."""
    last = min(reports.values(), key=lambda report: report.idle_s)
    parts = [f"nothing finished for {last.idle_s:.0f} s, since {last.finished}"]
    groups = {name: ranks for report in reports.values() for name, ranks in report.groups.items()}
    misfits = find_misfits({rank: report.calls for rank, report in reports.items()}, groups)
    if misfits:
        misfit = misfits[0]
        members = groups[misfit.call.group]
        group = "all ranks" if len(members) == world_size else f"ranks {list_ranks(members)}"
        parts.append(
            f"{name_ranks(misfit.ranks, hosts)} {misfit.what} {misfit.call}, number {misfit.call.number} of the group "
            f"of {group}, called at {misfit.call.place} by {name_ranks(misfit.waiting)}"
        )
    to_blame = misfits[0].ranks if misfits else tuple(reports)
    parts += _whereabouts([reports[rank] for rank in to_blame if rank in reports], hosts)
    mute = sorted(set(range(world_size)) - set(reports))
    if mute:
        parts.append(f"{name_ranks(mute, hosts)} gave no report: the interpreter is stuck, or the process is gone")
    return "; ".join(parts)


def _whereabouts(reports: Collection[Report], hosts: Mapping[int, str]) -> list[str]:
    """Where ranks stand, those at the same place together; the fewest first, for they are the odd ones."""
    places: dict[str, list[int]] = {}
    for report in reports:
        where = [report.doing or f"at {report.place}", *report.others]
        places.setdefault(", ".join(where), []).append(report.rank)
    ordered = sorted(places.items(), key=lambda item: len(item[1]))
    return [
        f"{name_ranks(ranks, hosts)} {'stands' if len(ranks) == 1 else 'stand'} {place}" for place, ranks in ordered
    ]


def name_ranks(ranks: Collection[int], hosts: Mapping[int, str] | None = None) -> str:
    """`rank 2 (node7)`, or `ranks 0-3, 7`."""
    if len(ranks) != 1:
        return f"ranks {list_ranks(ranks)}"
    (rank,) = ranks
    return f"rank {rank}" + (f" ({hosts[rank]})" if hosts and rank in hosts else "")


def list_ranks(ranks: Collection[int]) -> str:
    """`0-3, 7`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
