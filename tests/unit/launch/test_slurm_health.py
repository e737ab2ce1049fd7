"""Which nodes the health check leaves out, by what they tell of themselves and of each other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from launch import health
from launch.slurm.health import HealthCheck, _clock, own_problem, slow_together
from launch.slurm.nodes import named_faulty, without_answer
from launch.slurm.step import Training
from megatron_seed.train import metrics

LIMITS = {
    "gpus": 2.0, "gpu_memory_free": 0.9, "disk_free_gb": 10.0, "clock_skew_s": 5.0, "all_reduce_gb_per_s": 0.0,
    "all_reduce_share": 0.5, "timeout_s": 60.0,
}  # fmt: skip
GOOD = {"node": "n1", "gpu_memory_free": [0.99, 0.98], "disk_free_gb": {"/run": 100.0}, "clock_skew_s": 0.1}


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({}, ""),
        ({"gpu_memory_free": [0.99]}, "1 GPUs are visible, 2 should be"),
        ({"gpu_memory_free": [0.99, 0.2]}, "only 20% of the memory of GPU 1 is free"),
        ({"disk_free_gb": {"/run": 3.0}}, "only 3.0 GB are free in /run"),
        ({"clock_skew_s": -9.0}, "its clock is -9.0 s away"),
        ({"errors": ["torch does not work: no"]}, "torch does not work: no"),
    ],
)
def test_problems_of_a_node(told: dict[str, Any], problem: str) -> None:
    assert own_problem({**GOOD, **told}, LIMITS) == problem


def test_a_limit_of_the_rate_within_a_node() -> None:
    limits = {**LIMITS, "all_reduce_gb_per_s": 100.0}
    assert "reaches 20.0 GB/s, 100.0 are wanted" in own_problem({**GOOD, "node_gb_per_s": 20.0}, limits)
    assert own_problem({**GOOD, "node_gb_per_s": 200.0}, limits) == ""


def network(rates: dict[str, float | None]) -> list[dict[str, Any]]:
    """Reports of nodes in pairs."""
    names = list(rates)
    reports = []
    for number, (node, rate) in enumerate(rates.items()):
        group = names[number - number % 2 :][:2]
        reports.append({"node": node, "group": group, **({"group_gb_per_s": rate} if rate is not None else {})})
    return reports


def test_slow_and_failed_pairs() -> None:
    rates: ClassVar = {"n1": 40.0, "n2": 40.0, "n3": 10.0, "n4": 10.0, "n5": None, "n6": None, "n7": 41.0, "n8": 41.0}
    found = slow_together(network(rates), LIMITS)
    assert list(found) == ["n3", "n4", "n5", "n6"]
    assert "all-reduce with n4 reaches 10.00 GB/s, 20.00 are wanted" in found["n3"]
    assert found["n5"] == "all-reduce with n6 failed"


class Network(HealthCheck):
    """Rates of pairs are the slower node's."""

    rates: ClassVar = {"n1": 40.0, "n2": 40.0, "n3": 40.0, "n4": 5.0}

    def _check(self, checked: Any, groups: Any) -> dict[str, dict[str, Any]]:
        reports = {}
        for group in groups:
            rate = min(self.rates[node] for node in group)
            for node in group:
                reports[node] = {**GOOD, "node": node, "group": list(group), "group_gb_per_s": rate}
        return reports


def test_of_a_slow_pair_the_node_that_is_slow_with_others_too_is_bad(tmp_path: Path) -> None:
    check = Network(
        Training(("python",), 2), tmp_path, "1", None, [f"{name}={value}" for name, value in LIMITS.items()]
    )
    assert list(check.unhealthy(["n1", "n2", "n3", "n4"])) == ["n4"]


def test_replicas_that_differ_name_their_node_unless_it_is_a_tie(tmp_path: Path) -> None:
    metrics.write(tmp_path, {"kind": "event", "step": 1, "event": "replicas_differ", "time": 5.0, "ranks": [2, 3]})
    nodes = {0: "n1", 1: "n1", 2: "n2", 3: "n2", 4: "n3", 5: "n3"}
    assert named_faulty(tmp_path, nodes, ["n1", "n2", "n3"], 4.0) == {"n2": "its replicas differed"}
    assert named_faulty(tmp_path, nodes, ["n1", "n2", "n3"], 6.0) == {}
    assert named_faulty(tmp_path, nodes, ["n1", "n2"], 4.0) == {"n2": "its replicas differed"}
    metrics.write(tmp_path, {"kind": "event", "step": 1, "event": "replicas_differ", "time": 9.0, "ranks": [0, 2]})
    assert named_faulty(tmp_path, nodes, ["n1", "n2", "n3"], 8.0) == {}


def test_nodes_without_all_answers() -> None:
    assert without_answer(["n1", "n2", "n3"], {0: "n1", 1: "n1", 2: "n2"}, 2) == ["n2", "n3"]


def test_clocks_of_two_processes_agree() -> None:
    with _clock() as port:
        assert abs(health.clock_skew_s(f"127.0.0.1:{port}")) < 1.0


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        health.free_gb(tmp_path / "file" / "below", "n1")
    assert health.free_gb(tmp_path / "scratch", "n1") > 0
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.slow
def test_two_nodes_of_one_process_tell_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with _clock() as port:
        processes = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "launch.health", "--out", str(out), "--run-dir", str(tmp_path / "run"),
                    "--groups", "n1+n2", "--clock", f"127.0.0.1:{port}", "--timeout-s", "60",
                ],
                env={
                    **os.environ, "SLURMD_NODENAME": node, "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1",
                    "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NODEID": str(number),
                    "MASTER_ADDR": "127.0.0.1",
                },
            )
            for number, node in enumerate(("n1", "n2"))
        ]  # fmt: skip
        assert [process.wait(120) for process in processes] == [0, 0]
    reports = HealthCheck(Training(("python",), 1), tmp_path, "1", None, [])._read(out)
    assert set(reports) == {"n1", "n2"}
    for report in reports.values():
        assert own_problem(report, {**LIMITS, "gpus": 0, "disk_free_gb": 0.0}) == ""
        assert report["group_gb_per_s"] > 0 and not slow_together([report], LIMITS)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    with _clock():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
