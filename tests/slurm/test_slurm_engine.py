"""Shards as tasks of job arrays on a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import shard_functions
from cluster import Cluster

from data_prep.engines.choose import make_engine
from data_prep.engines.slurm import SlurmEngine
from data_prep.errors import DataError
from data_prep.shards import ShardTask, read_manifest, run_shards

pytestmark = pytest.mark.slow
SHARDS = 6


@pytest.fixture
def engine(on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SlurmEngine]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))

    def make(**options: object) -> SlurmEngine:
        return SlurmEngine(tmp_path / "jobs", memory_gb=0.5, time_minutes=5, poll_s=0.5, **options)

    return make


def tasks(folder: Path, function: Callable, *more: object) -> Sequence[ShardTask]:
    return [ShardTask(folder / f"{n}.txt", f"inputs {n}", function, (n,), more) for n in range(SHARDS)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_bytes_as_on_this_machine(engine: Callable, tmp_path: Path) -> None:
    local = run_shards(tasks(tmp_path / "here", shard_functions.squares), workers=1)
    there = run_shards(
        tasks(tmp_path / "there", shard_functions.squares), workers=1, engine=engine(max_tasks=4, partition="main")
    )
    assert there == local
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_a_shard_whose_task_dies_twice_passes_the_third_time(engine: Callable, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    made = run_shards(
        tasks(tmp_path / "out", shard_functions.dies_twice, tmp_path / "marks"), workers=1, engine=engine()
    )
    assert [manifest["rows"] for manifest in made] == [1] * SHARDS
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert list((tmp_path / "jobs").glob("common-*")) == []  # what tasks have in common lies there while they run


def test_a_shard_whose_task_always_dies_is_named(engine: Callable, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    with pytest.raises(DataError, match=r"3.txt: the worker died 2 times \(see .*jobs"):
        run_shards(
            tasks(tmp_path / "out", shard_functions.dies_twice, tmp_path / "marks"), workers=1,
            engine=engine(attempts=2),
        )  # fmt: skip


def test_a_shard_that_fails_is_named_and_what_was_finished_stays(engine: Callable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2.txt: ValueError: number two is not to be had"):
        run_shards(tasks(tmp_path / "out", shard_functions.refuses), workers=1, engine=engine())
    # A task that was cancelled may have renamed its output, and not yet written the manifest that makes it count.
    rest = [task for task in tasks(tmp_path / "out", shard_functions.squares) if read_manifest(task.output)]
    made = [task.output.stat().st_ino for task in rest]
    run_shards(rest, workers=1, engine=engine())
    assert [task.output.stat().st_ino for task in rest] == made


def test_a_run_that_is_interrupted_leaves_no_jobs(on_cluster: Cluster, engine: Callable, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    script = (
        "import sys, shard_functions; from pathlib import Path; from data_prep.engines.slurm import SlurmEngine; "
        "from data_prep.engines.base import Call; out, marks = map(Path, sys.argv[1:]); "
        "calls = [Call(str(n), shard_functions.sleeps, (None, n, marks)) for n in range(6)]; "
        "list(SlurmEngine(out, memory_gb=0.5, poll_s=0.5, time_minutes=5).run(calls))"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "jobs"), str(marks)])
    deadline = time.monotonic() + 60
    while not list(marks.iterdir()):
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) != 0
    while on_cluster.run("squeue", "-h", "-t", "pending,running").strip():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_cluster_that_refuses_says_why(engine: Callable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Slurm did not take the job: .*invalid partition"):
        run_shards(tasks(tmp_path / "out", shard_functions.squares), workers=1, engine=engine(partition="none"))


def test_a_job_that_could_never_start_is_not_waited_for(on_cluster: Cluster, tmp_path: Path) -> None:
    too_long = SlurmEngine(tmp_path / "jobs", time_minutes=10_000, poll_s=0.2)
    with pytest.raises(DataError, match=r"Slurm will never start \d+_0: PartitionTimeLimit"):
        run_shards(tasks(tmp_path / "out", shard_functions.squares), workers=1, engine=too_long)


def test_options_come_from_the_command_line(tmp_path: Path) -> None:
    made = make_engine("slurm", 2, tmp_path, {"partition": "cpu", "memory_gb": "1.5", "cpus": "3"})
    assert (made.partition, made.memory_gb, made.cpus) == ("cpu", 1.5, 3)
