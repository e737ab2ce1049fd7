"""Every layout trains the same model: losses and final parameters equal one process's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.train import metrics

STEPS = 20


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(run_dir) if row["kind"] == "train"]


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(checkpoint)
    return {key: reader.read(key) for key in reader.tensors}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key] - other[key]).abs().max().item() for key in one)


@pytest.fixture
def reference(tiny_recipe: Callable[..., Path], start: Callable) -> Path:
    recipe = tiny_recipe("reference", layout={"distributed_optimizer": False})
    start("-m", "megatron_seed.train", recipe)
    return recipe.with_suffix("")


LAYOUTS = {
    "TP2": (2, {"tensor_parallel": 2}),
    "PP2": (2, {"pipeline_parallel": 2}),
    "TP2+SP": (2, {"tensor_parallel": 2, "sequence_parallel": True}),
    "DP2+distributed optimizer": (2, {"distributed_optimizer": True}),
    "TP2xPP2": (4, {"tensor_parallel": 2, "pipeline_parallel": 2}),
}


def test_layouts_agree_with_one_process(reference: Path, tiny_recipe: Callable[..., Path], start: Callable) -> None:
    expected = losses(reference)
    assert len(expected) == STEPS
    assert expected[0] - expected[-1] >= 0.5
    expected_parameters = parameters(finished(reference)[-1])
    for number, (name, (processes, layout)) in enumerate(LAYOUTS.items()):
        recipe = tiny_recipe(f"layout{number}", layout={"distributed_optimizer": False, **layout})
        start("-m", "megatron_seed.train", recipe, processes=processes)
        run_dir = recipe.with_suffix("")
        assert losses(run_dir) == pytest.approx(expected, abs=1e-5), name
        assert largest_difference(parameters(finished(run_dir)[-1]), expected_parameters) < 1e-4, name


def test_a_missing_all_reduce_is_noticed(reference: Path, tiny_recipe: Callable[..., Path], start: Callable) -> None:
    recipe = tiny_recipe("broken", layout={"tensor_parallel": 2})
    start(Path(__file__).parent / "without_one_all_reduce.py", recipe, processes=2)
    assert losses(recipe.with_suffix("")) != pytest.approx(losses(reference), abs=1e-3)
