"""Training runs as jobs of the test cluster, and ways to watch them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cluster import Cluster

from launch.slurm.history import History, saved_step
from launch.slurm.submit import submit_run
from launch.slurm.training import Request
from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.train import metrics


@dataclass
class TrainingRun:
    """One run of the tiny recipe."""

    cluster: Cluster
    recipe: Path
    settings: Path
    jobs: Sequence[str] = ()

    @property
    def run_dir(self) -> Path:
        return self.recipe.with_suffix("")

    def submit(self, overrides: Sequence[str] = (), time_limit: str | None = None, **request: object) -> None:
        made = Request(**{"nodes": 2, "health": False, **request})
        self.jobs = submit_run(str(self.recipe), overrides, self.settings, made, time_limit)

    @property
    def step(self) -> int:
        return max((row["step"] for row in metrics.read(self.run_dir) if row["kind"] == "train"), default=0)

    @property
    def events(self) -> list[dict]:
        return History(self.run_dir).events()

    def named(self, event: str) -> list[dict]:
        return [found for found in self.events if found["event"] == event]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in metrics.read(self.run_dir) if row["kind"] == "train"]

    def state(self, job: str) -> str:
        return self.cluster.run("squeue", "-h", "--states=all", "-o", "%T", "-j", job, check=False).strip()

    def restarts(self, job: str) -> int:
        words = self.cluster.run("scontrol", "show", "job", job).split()
        return int(next(word for word in words if word.startswith("Restarts=")).partition("=")[2])

    def wait(self, reached: Callable[[], object], what: str, timeout_s: float = 240.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s\n{self.told()}"
            time.sleep(0.2)

    def wait_until_saved(self, step: int) -> None:
        self.wait(lambda: saved_step(self.run_dir) >= step, f"a checkpoint of step {step}")

    def wait_until_finished(self, timeout_s: float = 240.0) -> None:
        self.wait(lambda: self.named("finished") or self.named("gave_up"), "the end", timeout_s)
        assert self.named("finished"), self.told()
        self.wait(lambda: self.state(self.jobs[0]) in ("COMPLETED", "CANCELLED", ""), "the job's end")

    def told(self) -> str:
        logs = sorted((self.run_dir / "launch").glob("job-*.out"))
        texts = [path.read_text(errors="replace")[-4000:] for path in logs]
        return "\n".join([*map(str, self.events), *texts, self.cluster.run("squeue", check=False)])


def same_end(run: TrainingRun, other: TrainingRun) -> bool:
    """Losses of all steps and all that the last checkpoints hold are equal, bit by bit."""
    mine, theirs = (CheckpointReader(finished(one.run_dir)[-1]) for one in (run, other))
    keys = [*mine.tensors, *mine.optimizer_tensors]
    assert sorted(keys) == sorted([*theirs.tensors, *theirs.optimizer_tensors])
    return run.losses == other.losses and all((mine.read(key) == theirs.read(key)).all() for key in keys)


def write_settings(path: Path, **changes: object) -> Path:
    """A cluster file for the test cluster: its nodes' names are no addresses, and each takes one process."""
    settings = {
        "partition": "main",
        "gpus_per_node": 0,
        "processes_per_node": 1,
        "exclusive": False,
        "time": "30",
        "signal_margin_s": 60,
        "environment": {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
        "health": {"disk_free_gb": 0.01, "all_reduce_share": 0.0},
        **changes,
    }
    path.write_text(yaml.safe_dump(settings))
    return path
