"""A run that stops half way and goes on, on the same layout or another, is the run that never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_parity import largest_difference, losses, parameters, tensors

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.train import metrics

TP2 = {"tensor_parallel": 2}


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def uninterrupted(trained: dict[str, Path], tiny_recipe: Callable[..., Path], start: Callable) -> Path:
    if "whole" not in trained:
        recipe = tiny_recipe("whole", layout=TP2)
        start("-m", "megatron_seed.train", recipe, processes=2)
        trained["whole"] = recipe.with_suffix("")
    return trained["whole"]


def half_done(whole: Path, run_dir: Path) -> None:
    """A run folder as a kill between steps 10 and 20 leaves it."""
    shutil.copytree(whole, run_dir)
    shutil.rmtree(step_dir(run_dir, 20))
    (run_dir / "checkpoints" / ".step-00000020.tmp").mkdir()
    (run_dir / "checkpoints" / "latest").write_text("step-00000010\n")


@pytest.mark.parametrize(
    ("processes", "layout"),
    [
        (2, TP2),
        (1, {}),
        (2, {"pipeline_parallel": 2}),
        (2, {}),
        (4, {"tensor_parallel": 2, "sequence_parallel": True}),
    ],
    ids=["same", "one process", "PP2", "DP2", "TP2+SPxDP2"],
)
def test_resume(
    processes: int, layout: dict, uninterrupted: Path, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    recipe = tiny_recipe("resumed", layout=layout)
    run_dir = recipe.with_suffix("")
    half_done(uninterrupted, run_dir)
    start("-m", "megatron_seed.train", recipe, processes=processes)
    rows = [row for row in metrics.read(run_dir) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert losses(run_dir) == pytest.approx(losses(uninterrupted), abs=1e-5)
    ours, theirs = finished(run_dir)[-1], finished(uninterrupted)[-1]
    if layout == TP2:
        assert losses(run_dir) == losses(uninterrupted)
        one, other = tensors(ours), tensors(theirs)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    else:
        assert largest_difference(parameters(ours), parameters(theirs)) < 1e-4
    assert not list((run_dir / "checkpoints").glob(".step-*"))


def test_a_damaged_checkpoint_is_passed_over(
    uninterrupted: Path, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    recipe = tiny_recipe("damaged", layout=TP2)
    run_dir = recipe.with_suffix("")
    shutil.copytree(uninterrupted, run_dir)
    victim = next(step_dir(run_dir, 20).glob("*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    result = start("-m", "megatron_seed.train", recipe, processes=2)
    assert "step-00000020 is damaged" in result.stderr
    assert losses(run_dir) == losses(uninterrupted)


def test_when_no_checkpoint_is_good_the_run_is_not_started_anew(
    uninterrupted: Path, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    recipe = tiny_recipe("all_damaged", layout=TP2)
    run_dir = recipe.with_suffix("")
    shutil.copytree(uninterrupted, run_dir)
    for checkpoint in finished(run_dir):
        (checkpoint / "common.pt").unlink()
    result = start("-m", "megatron_seed.train", recipe, processes=2, check=False)
    assert result.returncode != 0
    assert "no good checkpoint is left" in result.stderr
