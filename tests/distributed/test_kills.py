"""A run killed without warning, again and again, is in the end the run that nobody killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_parity import losses, tensors

from megatron_seed.checkpoint.layout import checkpoints_dir, finished
from megatron_seed.train import metrics

EVERY, STEPS, TOKENS_PER_STEP = 12, 200, 8 * 32
LOST = 5
"""Steps since the last checkpoint when a run is killed for them."""


class Job:
    """A training job of two processes under torchrun, in a process group of its own."""

    def __init__(self, recipe: Path, *overrides: str) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        self.run_dir = recipe.with_suffix("")
        self.process = subprocess.Popen(
            [*launcher, "-m", "megatron_seed.train", str(recipe), *overrides],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = 120.0) -> bool:
        """True once `reached`, False if the job ended before."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "the job does not get on"
            time.sleep(0.002)
        return True


def saved_step(run_dir: Path) -> int:
    return int(finished(run_dir)[-1].name.removeprefix("step-")) if finished(run_dir) else 0


def trained_step(run_dir: Path) -> int:
    return max((row["step"] for row in metrics.read(run_dir) if row["kind"] == "train"), default=0)


def unfinished(run_dir: Path) -> set[Path]:
    return set(checkpoints_dir(run_dir).glob(".step-*.tmp"))


@pytest.mark.slow
def test_ten_kills_change_nothing(tiny_recipe: Callable[..., Path], start: Callable, tiny_builds: dict) -> None:
    phase = {
        "name": "main",
        "tokens": STEPS * TOKENS_PER_STEP,
        "learning_rate": 3e-3,
        "blend": [{"name": "a", "builds": tiny_builds["train"]}],
        "sequence_length": 32,
        "global_batch_size": 8,
    }
    options = {"phases": [phase], "checkpoint": {"every_steps": EVERY}}
    whole = tiny_recipe("whole", **options)
    start("-m", "megatron_seed.train", whole, processes=2)

    killed = tiny_recipe("killed", **options)
    run_dir = killed.with_suffix("")
    in_a_save = lost = 0
    for attempt in range(10):
        job, left_over = Job(killed), unfinished(run_dir)
        if attempt % 2:
            saving = lambda job=job, old=left_over: bool(unfinished(job.run_dir) - old)  # noqa: E731
            assert job.wait_until(saving), "the run ended before it was killed ten times"
            job.kill()
            in_a_save += bool(unfinished(run_dir))
        else:
            begun = trained_step(run_dir)
            far = lambda job=job, begun=begun: (  # noqa: E731
                trained_step(job.run_dir) > begun and trained_step(job.run_dir) - saved_step(job.run_dir) >= LOST
            )
            assert job.wait_until(far), "the run ended before it was killed ten times"
            job.kill()
            lost += trained_step(run_dir) - saved_step(run_dir) >= LOST
    assert in_a_save >= 3 and lost >= 3, (in_a_save, lost)
    start("-m", "megatron_seed.train", killed, processes=2)
    assert losses(run_dir) == losses(whole.with_suffix(""))
    mine, theirs = tensors(finished(run_dir)[-1]), tensors(finished(whole.with_suffix(""))[-1])
    assert mine.keys() == theirs.keys()
    assert all((mine[key] == theirs[key]).all() for key in mine)
    assert not unfinished(run_dir)
