"""Planned memory, held against a real model: its parameters, buffers, optimizer and what autograd keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_seed.config.load import load_recipe, parse_recipe
from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig, Recipe
from megatron_seed.plan.activations import CPU_KERNELS, GPU_KERNELS, Work, allocator_held, head_kept, layer_kept
from megatron_seed.plan.hardware import Assumptions
from megatron_seed.plan.memory import (
    RankMemory,
    checkpoint_bytes,
    memory_per_stage,
    micro_batches_kept,
    stage_parameters,
)
from megatron_seed.runtime.groups import process_groups

LENGTH, ROWS = 96, 2


def make_recipe(precision: str = "fp32", phase: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    values = {
        "name": "main",
        "tokens": 1,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": "nowhere"}],
        "sequence_length": LENGTH,
        "global_batch_size": ROWS,
        "micro_batch_size": ROWS,
        **(phase or {}),
    }
    model = {"preset": "seed_coder_tiny", **changes.pop("model", {})}
    recipe = {"name": "r", "run_dir": "nowhere", "model": model, "precision": precision, "phases": [values], **changes}
    return parse_recipe(recipe, "test")


def fullest(recipe: Recipe, replicas: int = 1, kernels: Any = CPU_KERNELS) -> RankMemory:
    phase = recipe.phases[0]
    stages = memory_per_stage(recipe, phase, recipe.layout_of(phase), replicas, Assumptions(), kernels)
    return max(stages, key=lambda rank: rank.total)


@pytest.fixture(scope="module")
def groups() -> Iterator[None]:
    with process_groups(LayoutConfig(), seed=0):
        yield


@pytest.fixture
def built(groups: None) -> Callable[[Recipe], tuple[Any, Any]]:
    """A recipe's model, wrapped, and its optimizer."""

    def build(recipe: Recipe) -> tuple[Any, Any]:
        from megatron_seed.model.build import build_model
        from megatron_seed.optim.build import build_optimizer, wrap_data_parallel
        from megatron_seed.train.run import compute_of

        chunks = build_model(recipe.model, recipe.layout, compute_of(recipe, recipe.phases[0]), seed=1)
        (model,) = wrap_data_parallel(chunks, recipe.layout)
        return model, build_optimizer([model], recipe.optimizer, recipe.layout, recipe.precision)

    return build


def loss_of(model: Any, recipe: Recipe) -> torch.Tensor:
    phase = recipe.phases[0]
    shape = (phase.micro_batch_size, phase.sequence_length)
    tokens = torch.randint(0, recipe.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    if not phase.document_mask:
        return model(tokens, torch.arange(shape[1]).expand(shape), None, labels=tokens)
    from megatron_seed.train.step import _packed

    flat, whole = tokens.reshape(1, -1), tokens.numel()
    ends = torch.tensor([0, whole // 3, whole], dtype=torch.int32)
    return model(flat, torch.arange(whole)[None], None, labels=flat, packed_seq_params=_packed(ends))


def saved_bytes(model: Any, recipe: Recipe) -> int:
    """What autograd keeps of a forward pass, each storage once, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, recipe)
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parameters_gradients_and_optimizer_are_those_of_a_built_model(precision: str, built: Callable) -> None:
    recipe = make_recipe(precision, model={"vocab_size": 1000})
    model, optimizer = built(recipe)
    planned = fullest(recipe)
    assert stage_parameters(recipe.model, recipe.layout, 0) == sum(p.numel() for p in model.parameters())
    # Buffers are padded a little, so that they divide by the replicas.
    buffers = model.buffers
    assert planned.gradients == pytest.approx(sum(buffer.grad_data.nbytes for buffer in buffers), rel=5e-3)
    assert planned.parameters == pytest.approx(sum(buffer.param_data.nbytes for buffer in buffers), rel=5e-3)
    (part,) = optimizer.chained_optimizers
    state = sum(t.nbytes for state in part.optimizer.state.values() for name, t in state.items() if name != "step")
    if precision == "bf16":
        state += sum(p.nbytes for group in part.shard_fp32_from_float16_groups for p in group)
    assert planned.optimizer == state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": {"recompute": "full"}},
        {"layout": {"recompute": "selective"}},
        {"loss_chunk_tokens": 50},
        {"phase": {"document_mask": True}},
        {"model": {"num_query_groups": 4, "ffn_hidden_size": 192, "vocab_size": 1000}},
        {"model": {"qk_norm": True, "qkv_bias": True}},
    ],
    ids=["plain", "full", "selective", "chunks", "documents", "shape", "qwen"],
)
def test_activations_are_what_autograd_keeps(precision: str, changes: dict, built: Callable) -> None:
    recipe = make_recipe(precision, **changes)
    phase = recipe.phases[0]
    model, _ = built(recipe)
    work = Work.of(recipe, phase, recipe.layout, CPU_KERNELS)
    kept = sum(layer_kept(work).values()) * recipe.model.num_layers + sum(head_kept(work).values())
    # Left out: token ids, rotary tables, the seeds that recomputation keeps.
    small = 8 * LENGTH * ROWS + 2 * work.element * 256 * 8 + recipe.model.num_layers * 6000
    saved = saved_bytes(model, recipe)
    assert kept <= saved <= kept + small


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [0, 64])
def test_the_fullest_moment_is_that_of_a_real_step(precision: str, chunk: int, built: Callable, tmp_path: Path) -> None:
    """Live tensors by torch's own account of its allocator, over a forward and a backward pass."""
    shape = {"hidden_size": 256, "head_dim": 64, "ffn_hidden_size": 640, "vocab_size": 4096, "max_sequence_length": 256}
    recipe = make_recipe(precision, {"sequence_length": 256}, model=shape, loss_chunk_tokens=chunk)
    model, _ = built(recipe)
    loss_of(model, recipe).sum().backward()  # tables and caches of the first time
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss_of(model, recipe).sum().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    live = peak = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    planned = fullest(recipe)
    assert sum(planned.activations.values()) + planned.working == pytest.approx(peak, rel=0.06)


@pytest.mark.parametrize("preset", ["seed_coder_8b", "seed_coder_tiny"])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_the_ranks_of_a_layout_hold_the_model_together(preset: str, tensor: int, pipeline: int) -> None:
    model = ModelConfig(**PRESETS[preset])
    layout = LayoutConfig(tensor_parallel=tensor, pipeline_parallel=pipeline)
    together = tensor * sum(stage_parameters(model, layout, stage) for stage in range(pipeline))
    norms = (2 * model.num_layers + 1) * model.hidden_size
    assert together == stage_parameters(model, LayoutConfig(), 0) + (tensor - 1) * norms


def test_the_8b_model_has_the_known_size() -> None:
    recipe = load_recipe("seed_coder_8b/pretrain")
    assert stage_parameters(recipe.model, LayoutConfig(), 0) == 8_250_462_208
    assert checkpoint_bytes(recipe) == 14 * 8_250_462_208


def test_every_split_takes_memory_off_a_rank() -> None:
    recipe = load_recipe("seed_coder_8b/pretrain", ["layout.sequence_parallel=false"])
    phase = recipe.phases[0]

    def total(replicas: int = 1, **layout: Any) -> float:
        stages = memory_per_stage(recipe, phase, LayoutConfig(**layout), replicas, Assumptions())
        return max(rank.total for rank in stages)

    alone = total()
    assert alone > total(recompute="full")
    assert alone > total(replicas=2) > total(replicas=16)
    assert alone > total(tensor_parallel=2) > total(tensor_parallel=4) > total(tensor_parallel=8)
    assert total(tensor_parallel=4) > total(tensor_parallel=4, sequence_parallel=True)
    assert alone > total(pipeline_parallel=2) > total(pipeline_parallel=4)
    assert alone > total(context_parallel=2)


def test_longer_sequences_larger_batches_and_fewer_chunks_of_the_loss_take_more() -> None:
    def total(*overrides: str) -> float:
        recipe = load_recipe("seed_coder_8b/pretrain", list(overrides))
        return fullest(recipe, replicas=4, kernels=GPU_KERNELS).total

    plain = total()
    assert plain < total("phases.0.sequence_length=16384")
    assert plain < total("phases.0.micro_batch_size=2")
    assert plain < total("loss_chunk_tokens=0", "layout.pipeline_parallel=1")
    assert plain < total("precision=fp32")


def test_early_stages_hold_more_micro_batches() -> None:
    plain = LayoutConfig(pipeline_parallel=4)
    assert [micro_batches_kept(plain, 8, stage) for stage in range(4)] == [4, 3, 2, 1]
    assert micro_batches_kept(plain, 2, 0) == 2
    interleaved = LayoutConfig(pipeline_parallel=4, virtual_pipeline=2)
    # (2 x 3 + 4 + 1) chunks of half a stage.
    assert micro_batches_kept(interleaved, 8, 0) == 5.5
    assert micro_batches_kept(interleaved, 8, 3) == 2.5


def test_a_copy_for_saves_counts_on_a_cpu_alone() -> None:
    recipe = make_recipe()
    assert fullest(recipe, kernels=GPU_KERNELS).checkpoint_copy == 0
    assert fullest(recipe).checkpoint_copy == checkpoint_bytes(recipe)
    assert fullest(make_recipe(checkpoint={"asynchronous": False})).checkpoint_copy == 0


def test_only_what_shares_the_heap_is_lost_to_the_allocator() -> None:
    def held(length: int, kernels: Any = CPU_KERNELS, micro_batches: int = 1) -> float:
        changes = {"hidden_size": 1024, "head_dim": 256, "max_sequence_length": 2**20}
        recipe = make_recipe(phase={"sequence_length": length}, model=changes)
        return allocator_held(Work.of(recipe, recipe.phases[0], recipe.layout, kernels), 1, micro_batches)

    assert held(4) == 0  # small objects
    assert held(1024) > 0
    assert held(1024, micro_batches=2) > held(1024)
    assert held(8192) == 0  # pages of their own
    assert held(1024, kernels=GPU_KERNELS, micro_batches=2) == 0
