"""Jobs of several processes that are told to stop: one that hears of it is enough, and nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from test_kills import Job, trained_step
from test_parity import losses, tensors

from megatron_seed.checkpoint.layout import finished
from megatron_seed.train import metrics

STEPS = 200


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    return {}


def of_launcher(job: Job) -> int:
    return job.process.pid


def of_rank_1(job: Job) -> int:
    ranks = {
        child.environ().get("RANK"): child.pid
        for child in psutil.Process(job.process.pid).children()
        if "megatron_seed.train" in child.cmdline()
    }
    return ranks["1"]


@pytest.mark.parametrize(
    ("who", "number"),
    [
        pytest.param(of_rank_1, signal.SIGUSR1, id="one rank"),
        pytest.param(of_launcher, signal.SIGTERM, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_all_ranks_stop_at_one_step_saved_and_go_on_bit_equal(
    who: Callable[[Job], int], number: int, tiny_recipe: Callable[..., Path], start: Callable, trained: dict[str, Path]
) -> None:
    longer = f"phases.0.tokens={STEPS * 8 * 32}"
    if "whole" not in trained:
        whole = tiny_recipe("whole", checkpoint={"every_steps": 1000})
        start("-m", "megatron_seed.train", whole, longer, processes=2)
        trained["whole"] = whole.with_suffix("")
    recipe = tiny_recipe("stopped", checkpoint={"every_steps": 1000})
    run_dir = recipe.with_suffix("")
    job = Job(recipe, longer)
    assert job.wait_until(lambda: trained_step(run_dir) >= 20)
    psutil.Process(who(job)).send_signal(number)
    assert job.process.wait(60)
    (checkpoint,) = finished(run_dir)
    (told,) = (row for row in metrics.read(run_dir) if row["kind"] == "event")
    assert (told["event"], told["reason"]) == ("stopped_early", signal.Signals(number).name)
    assert checkpoint.name == f"step-{told['step']:08d}" and 20 <= told["step"] < STEPS
    start("-m", "megatron_seed.train", recipe, longer, processes=2)
    assert losses(run_dir) == losses(trained["whole"])
    one, other = (tensors(finished(folder)[-1]) for folder in (run_dir, trained["whole"]))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
