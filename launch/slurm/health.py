"""The health check as the supervisor sees it: it has `launch.health` run on every node, and judges what they tell."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.slurm import nodes
from launch.slurm.history import launch_dir
from launch.slurm.step import Training, end_step, srun_argv

Report = dict[str, Any]
Limits = Mapping[str, float]
_PROBE_S = 30.0


class HealthCheck:
    """Finds the bad ones among the nodes of a job."""

    def __init__(self, training: Training, run_dir: Path, job: str, scratch: str | None, limits: Sequence[str]) -> None:
        self.training = training
        self.run_dir = run_dir
        self.job = job
        self.scratch = scratch
        self.limits = {name: float(value) for name, _, value in (limit.partition("=") for limit in limits)}

    def unhealthy(self, candidates: Sequence[str]) -> dict[str, str]:
        """Nodes that are not fit for training, and why. Nodes that only fail together are tried with others."""
        found = self._check(candidates, _groups(candidates))
        silent = [node for node in candidates if node not in found]
        bad = dict.fromkeys(nodes.lost(silent, self.job, _PROBE_S), "nothing can be started on it")
        again = [node for node in silent if node not in bad]
        if again and len(again) + len(bad) == len(candidates):  # one dead node kept all of them from starting
            found = self._check(again, _groups(again))
            again = [node for node in again if node not in found]
        bad |= dict.fromkeys(again, f"no answer to the health check in {self.limits['timeout_s']:.0f} s")
        bad |= {node: why for node, report in found.items() if (why := own_problem(report, self.limits))}
        slow = slow_together([report for node, report in found.items() if node not in bad], self.limits)
        good = [node for node in found if node not in bad and node not in slow]
        return bad | self._tried_with_others(slow, good)

    def _tried_with_others(self, slow: Mapping[str, str], good: Sequence[str]) -> dict[str, str]:
        pairs = dict(zip(slow, good, strict=False))
        if not pairs:
            return dict(slow)
        found = self._check([*pairs, *pairs.values()], [list(pair) for pair in pairs.items()])
        still = slow_together([found.get(node, {"node": node}) for node in pairs], self.limits, known_good=found)
        return {node: still.get(node, why) for node, why in slow.items() if node in still or node not in pairs}

    def _check(self, checked: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, Report]:
        """Reports by node; nodes that hang or fail give none, or half of one."""
        folder = launch_dir(self.run_dir) / "health" / f"{self.job}-{time.time_ns()}"
        folder.mkdir(parents=True)
        with _clock() as port:
            arguments = [
                "-m", "launch.health", "--out", str(folder), "--run-dir", str(self.run_dir),
                "--groups", ",".join("+".join(group) for group in groups),
                "--clock", f"{socket.gethostname()}:{port}", "--timeout-s", str(self.limits["timeout_s"]),
            ]  # fmt: skip
            arguments += ["--scratch", self.scratch] if self.scratch else []
            argv = [*srun_argv(self.training, checked, self.training.processes), *self.training.inside]
            srun = subprocess.Popen([*argv, self.training.command[0], *arguments], stdin=subprocess.DEVNULL)
            try:
                srun.wait(self.limits["timeout_s"])
            except subprocess.TimeoutExpired:
                end_step(srun, self.job)
        return self._read(folder)

    def _read(self, folder: Path) -> dict[str, Report]:
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        return {report["node"]: report for report in reports}


def _groups(candidates: Sequence[str]) -> list[list[str]]:
    """Neighbours in pairs; the last three together where their number is odd."""
    pairs = [list(candidates[first : first + 2]) for first in range(0, len(candidates), 2)]
    if len(pairs) > 1 and len(pairs[-1]) == 1:
        pairs[-2:] = [pairs[-2] + pairs[-1]]
    return pairs


def own_problem(report: Report, limits: Limits) -> str:
    """What is wrong with a node by itself; empty when nothing is."""
    problems = list(report.get("errors", []))
    gpus = report.get("gpu_memory_free", [])
    if len(gpus) != limits["gpus"]:
        problems.append(f"{len(gpus)} GPUs are visible, {limits['gpus']:.0f} should be")
    problems += [
        f"only {free:.0%} of the memory of GPU {number} is free"
        for number, free in enumerate(gpus)
        if free < limits["gpu_memory_free"]
    ]
    problems += [
        f"only {free:.1f} GB are free in {folder}"
        for folder, free in report.get("disk_free_gb", {}).items()
        if free < limits["disk_free_gb"]
    ]
    skew = report.get("clock_skew_s")
    if skew is not None and abs(skew) > limits["clock_skew_s"]:
        problems.append(f"its clock is {skew:+.1f} s away")
    rate = report.get("node_gb_per_s")
    if rate is not None and rate < limits["all_reduce_gb_per_s"]:
        problems.append(f"all-reduce within it reaches {rate:.1f} GB/s, {limits['all_reduce_gb_per_s']:.1f} are wanted")
    return "; ".join(problems)


def slow_together(reports: Sequence[Report], limits: Limits, known_good: Mapping[str, Report] = {}) -> dict[str, str]:
    """Nodes whose all-reduce with their neighbours failed, or is slow by the limit or beside the median's."""
    rates = [report["group_gb_per_s"] for report in (*reports, *known_good.values()) if "group_gb_per_s" in report]
    wanted = max(limits["all_reduce_gb_per_s"], limits["all_reduce_share"] * statistics.median(rates) if rates else 0.0)
    found = {}
    for report in reports:
        others = " and ".join(node for node in report.get("group", []) if node != report["node"])
        rate = report.get("group_gb_per_s")
        if rate is None and (others or not report.get("group")):
            found[report["node"]] = f"all-reduce with {others or 'another node'} failed"
        elif rate is not None and rate < wanted:
            found[report["node"]] = f"all-reduce with {others} reaches {rate:.2f} GB/s, {wanted:.2f} are wanted"
    return found


@contextlib.contextmanager
def _clock() -> Any:
    """Tells this node's time to whoever connects; gives the port."""
    with socket.create_server(("", 0)) as server:
        server.settimeout(0.5)
        done = threading.Event()
        thread = threading.Thread(target=_tell_time, args=(server, done), daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            thread.join()


def _tell_time(server: socket.socket, done: threading.Event) -> None:
    while not done.is_set():
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.sendall(f"{time.time():.6f}".encode())
