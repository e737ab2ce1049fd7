"""Whole runs on one NVIDIA GPU with TransformerEngine: FP8, fused gradients, repeatability, and to a CPU and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_seed.runtime import device
from megatron_seed.train import metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not device.has_transformer_engine(), reason="needs a GPU and TransformerEngine"),
]
# FP8 products want dimensions that divide by 16.
MODEL = {"preset": "seed_coder_10m", "vocab_size": 120, "max_sequence_length": 128}


def losses(recipe: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(recipe.with_suffix("")) if row["kind"] == "train"]


@pytest.fixture
def run(tiny_recipe: Callable[..., Path], start: Callable) -> Callable[..., list[float]]:
    def train(name: str, *overrides: str, **changes: object) -> list[float]:
        recipe = tiny_recipe(name, model=MODEL, precision="bf16", **changes)
        start("-m", "megatron_seed.train", recipe, *overrides)
        return losses(recipe)

    return train


@pytest.mark.parametrize("scaling", ["current", "delayed"])
def test_fp8_stays_near_bf16(scaling: str, run: Callable) -> None:
    longer = "phases.0.tokens=51200"
    expected, found = run("bf16", longer), run("fp8", longer, fp8=scaling)
    assert len(found) == len(expected) == 200
    assert found[-1] == pytest.approx(expected[-1], abs=0.1)
    assert sum(found[-20:]) == pytest.approx(sum(expected[-20:]), abs=20 * 0.05)


def test_fused_weight_gradients_train_alike(run: Callable) -> None:
    assert run("fused", fused_weight_gradient=True) == pytest.approx(run("plain"), abs=0.02)


def test_a_deterministic_run_repeats_bit_for_bit(run: Callable) -> None:
    assert run("once", deterministic=True) == run("twice", deterministic=True)


def test_a_checkpoint_goes_from_fused_adam_to_torchs_and_back(
    tiny_recipe: Callable[..., Path], start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("moving", model=MODEL, precision="bf16")
    start("-m", "megatron_seed.train", recipe, "phases.0.tokens=1280")
    with monkeypatch.context() as without_gpu:
        without_gpu.setenv("CUDA_VISIBLE_DEVICES", "")
        start("-m", "megatron_seed.train", recipe, "phases.0.tokens=2560")
    start("-m", "megatron_seed.train", recipe)
    whole = tiny_recipe("whole", model=MODEL, precision="bf16")
    start("-m", "megatron_seed.train", whole)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    assert losses(recipe) == pytest.approx(losses(whole), abs=0.05)
