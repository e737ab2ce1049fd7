"""Which nodes of a job are good: those that answer, that training did not name, and that pass the health check."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.slurm import control
from megatron_seed.train import metrics

_PROBES_AT_ONCE = 64


def named_faulty(run_dir: Path, node_of: Mapping[int, str], chosen: Sequence[str], since: float) -> dict[str, str]:
    """Nodes whose replicas differed from the others', by what training noted since then.

    Where half of several nodes or more are named nobody knows which ones are wrong, and none is.
    """
    named = {
        node_of[rank]
        for row in metrics.read(run_dir)
        if row.get("event") == "replicas_differ" and row.get("time", 0) >= since
        for rank in row.get("ranks", [])
        if rank in node_of
    }
    certain = len(named) == 1 or 2 * len(named) < len(chosen)
    return dict.fromkeys(sorted(named), "its replicas differed") if certain else {}


def without_answer(chosen: Sequence[str], node_of: Mapping[int, str], processes: int) -> list[str]:
    """Nodes with processes that did not tell how they ended."""
    told = list(node_of.values())
    return [node for node in chosen if told.count(node) < processes]


def lost(suspects: Sequence[str], job: str, timeout_s: float) -> list[str]:
    """Those suspects on which nothing can be started, or that the job does not have any more."""
    if not suspects:
        return []
    held = set(control.job_nodes(job))
    asked = [node for node in suspects if node in held]
    answering: set[str] = set()
    for first in range(0, len(asked), _PROBES_AT_ONCE):
        answering |= _answering(asked[first : first + _PROBES_AT_ONCE], timeout_s)
    return [node for node in suspects if node not in answering]


def _answering(asked: Sequence[str], timeout_s: float) -> set[str]:
    probes = {
        node: subprocess.Popen(
            ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--overlap", "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in asked
    }
    deadline = time.monotonic() + timeout_s
    answered = set()
    for node, probe in probes.items():
        with contextlib.suppress(subprocess.TimeoutExpired):
            if probe.wait(max(0.0, deadline - time.monotonic())) == 0:
                answered.add(node)
    for probe in probes.values():
        for end in (probe.terminate, probe.kill):
            if probe.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    probe.wait(2.0)
    return answered
