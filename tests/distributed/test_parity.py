"""Every layout trains the same model: losses and final parameters equal one process's, and one process's equal
those of transformers with torch's AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.train import metrics

STEPS = 20
LAYOUTS = {
    "TP2": (2, {"tensor_parallel": 2}),
    "PP2": (2, {"pipeline_parallel": 2}),
    "TP2+SP": (2, {"tensor_parallel": 2, "sequence_parallel": True}),
    "DP2+distributed optimizer": (2, {"distributed_optimizer": True}),
    "TP2xPP2": (4, {"tensor_parallel": 2, "pipeline_parallel": 2}),
    "PP2xVPP2": (2, {"pipeline_parallel": 2, "virtual_pipeline": 2}),
    "CP2": (2, {"context_parallel": 2}),
    "CP2xTP2+SP": (4, {"context_parallel": 2, "tensor_parallel": 2, "sequence_parallel": True}),
    "PP2xVPP2xDP2+distributed optimizer+overlap": (
        4,
        {
            "pipeline_parallel": 2,
            "virtual_pipeline": 2,
            "distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
        },
    ),
    "full recompute": (1, {"recompute": "full"}),
    "TP2+selective recompute": (2, {"tensor_parallel": 2, "recompute": "selective"}),
}
COMPUTE = {
    "loss in chunks": (1, {}, {"loss_chunk_tokens": 7}),
    "loss in chunks, TP2+SP": (2, {"tensor_parallel": 2, "sequence_parallel": True}, {"loss_chunk_tokens": 10}),
    "fused weight gradient": (1, {}, {"fused_weight_gradient": True}),
    "all of it, TP2": (
        2,
        {"tensor_parallel": 2},
        {"fused_weight_gradient": True, "loss_chunk_tokens": 7, "deterministic": True},
    ),
}


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(run_dir) if row["kind"] == "train"]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Everything a checkpoint holds, parameters and optimizer state, whole."""
    reader = CheckpointReader(checkpoint)
    return {key: reader.read(key) for key in [*reader.tensors, *reader.optimizer_tensors]}


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(checkpoint)
    return {key: reader.read(key) for key in reader.tensors}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key] - other[key]).abs().max().item() for key in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of the tests before, by name: runs are expensive."""
    return {}


@pytest.fixture
def reference(trained: dict[str, Path], tiny_recipe: Callable[..., Path], start: Callable) -> Path:
    if "reference" not in trained:
        recipe = tiny_recipe("reference", layout={"distributed_optimizer": False})
        start("-m", "megatron_seed.train", recipe)
        trained["reference"] = recipe.with_suffix("")
    return trained["reference"]


@pytest.mark.parametrize("name", [*LAYOUTS, *COMPUTE])
def test_a_layout_agrees_with_one_process(
    name: str, reference: Path, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    expected = losses(reference)
    assert len(expected) == STEPS
    assert expected[0] - expected[-1] >= 0.5
    processes, layout, compute = ({name: (*row, {}) for name, row in LAYOUTS.items()} | COMPUTE)[name]
    recipe = tiny_recipe("layout", layout={"distributed_optimizer": False, **layout}, **compute)
    # One process takes samples one by one, layouts four at once; pipelines need the many micro-batches.
    larger = () if "pipeline_parallel" in layout else ("phases.0.micro_batch_size=4",)
    start("-m", "megatron_seed.train", recipe, *larger, processes=processes)
    run_dir = recipe.with_suffix("")
    assert losses(run_dir) == pytest.approx(expected, abs=1e-5)
    assert largest_difference(parameters(finished(run_dir)[-1]), parameters(finished(reference)[-1])) < 1e-4


def test_a_missing_all_reduce_is_noticed(reference: Path, tiny_recipe: Callable[..., Path], start: Callable) -> None:
    """By these tests, and by the run itself, before it saves parameters that should be equal and are not."""
    recipe = tiny_recipe("broken", layout={"tensor_parallel": 2})
    ended = start(Path(__file__).parent / "without_one_all_reduce.py", recipe, processes=2, check=False)
    assert ended.returncode and "differs from its replicas'" in ended.stderr
    assert losses(recipe.with_suffix("")) != pytest.approx(losses(reference)[:10], abs=1e-3)
    assert not finished(recipe.with_suffix(""))


def test_one_process_agrees_with_transformers(
    reference: Path, tiny_recipe: Callable[..., Path], start: Callable, tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM
    from transformers_peer import train_in_transformers

    from megatron_seed.hf.export import export_hf

    # A rate of zero for one step leaves the initial parameters in its checkpoint.
    unmoved = tiny_recipe("unmoved", checkpoint={"every_steps": 1})
    start("-m", "megatron_seed.train", unmoved, "phases.0.learning_rate=1e-30", "phases.0.tokens=256")
    export_hf(finished(unmoved.with_suffix(""))[0], tmp_path / "hf")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).train()

    theirs = train_in_transformers(model, reference / "config.yaml", STEPS, 3e-3)
    assert losses(reference) == pytest.approx(theirs, abs=1e-5)

    export_hf(finished(reference)[-1], tmp_path / "final")
    final = LlamaForCausalLM.from_pretrained(tmp_path / "final", dtype=torch.float32).state_dict()
    assert largest_difference(final, model.state_dict()) < 1e-4
