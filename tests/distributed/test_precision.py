"""bf16 training keeps fp32 master weights, stays near fp32, and goes on bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_parity import losses, tensors

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.checkpoint.reader import CheckpointReader

# Four processes hold two replicas of a model in two parts each; the optimizer's state is shared out over the replicas.
LAYOUT = {"tensor_parallel": 2, "distributed_optimizer": True}
PROCESSES = 4


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    """Run folders of the tests before, by precision: runs are expensive."""
    return {}


@pytest.fixture
def run(trained: dict[str, Path], tiny_recipe: Callable[..., Path], start: Callable) -> Callable[[str], Path]:
    def run(precision: str) -> Path:
        if precision not in trained:
            recipe = tiny_recipe(precision, precision=precision, layout=LAYOUT if precision == "bf16" else {})
            start("-m", "megatron_seed.train", recipe, processes=PROCESSES if precision == "bf16" else 1)
            trained[precision] = recipe.with_suffix("")
        return trained[precision]

    return run


def test_bf16_learns_what_fp32_learns(run: Callable[[str], Path]) -> None:
    exact, rounded = losses(run("fp32")), losses(run("bf16"))
    assert len(rounded) == 20 and rounded[0] - rounded[-1] >= 0.5
    assert rounded == pytest.approx(exact, abs=0.05)
    assert rounded != exact


def test_master_weights_and_moments_are_fp32(run: Callable[[str], Path]) -> None:
    reader = CheckpointReader(finished(run("bf16"))[-1])
    assert {info.dtype for info in reader.tensors.values()} == {torch.bfloat16}
    for kind in ("param", "exp_avg", "exp_avg_sq"):
        for key, info in reader.tensors.items():
            state = reader.info(f"optimizer.state.{kind}.{key}")
            assert (state.dtype, state.shape) == (torch.float32, info.shape)
    for key in reader.tensors:
        master = reader.read(f"optimizer.state.param.{key}")
        assert torch.equal(master.bfloat16(), reader.read(key)), f"{key} is not its rounded master"
    masters = torch.cat([reader.read(f"optimizer.state.param.{key}").flatten() for key in reader.tensors])
    assert (masters != masters.bfloat16().float()).float().mean() > 0.9, "masters hold more than bf16 can"


def test_a_bf16_run_goes_on_bit_for_bit(
    run: Callable[[str], Path], tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    whole = run("bf16")
    recipe = tiny_recipe("resumed", precision="bf16", layout=LAYOUT)
    resumed = recipe.with_suffix("")
    shutil.copytree(whole, resumed)
    shutil.rmtree(step_dir(resumed, 20))
    start("-m", "megatron_seed.train", recipe, processes=PROCESSES)
    assert losses(resumed) == losses(whole)
    one, other = (tensors(step_dir(run_dir, 20)) for run_dir in (resumed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
