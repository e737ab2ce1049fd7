"""The layouts in which a phase can be trained on so many GPUs, those that fit, and the fastest of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_seed.config.schema import LayoutConfig, PhaseConfig, Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.errors import SeedError
from megatron_seed.plan.hardware import Assumptions, Gpu
from megatron_seed.plan.memory import RankMemory, memory_per_stage
from megatron_seed.plan.step_time import StepTime, model_flops_utilisation, step_time

_MICRO_BATCH_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Candidate:
    """One layout of one phase, with what it needs and takes."""

    layout: LayoutConfig
    micro_batch_size: int
    replicas: int
    micro_batches: int
    """Of one replica and step."""
    memory: RankMemory
    """Of the fullest rank."""
    fits: bool
    time: StepTime
    mfu: float
    """Causal, by the model of `step_time`."""
    tokens_per_second: float


def usable_bytes(gpu: Gpu, assumptions: Assumptions) -> float:
    return gpu.memory_bytes * (1.0 - assumptions.memory_margin)


def evaluate(recipe: Recipe, phase: PhaseConfig, gpus: int, gpu: Gpu, assumptions: Assumptions) -> Candidate:
    """A phase as the recipe has it; SeedError when it cannot be on so many GPUs."""
    refuse(recipe, phase, gpus)
    layout = recipe.layout_of(phase)
    replicas = gpus // layout.model_parallel_size
    stages = memory_per_stage(recipe, phase, layout, replicas, assumptions)
    memory = max(stages, key=lambda rank: rank.total)
    time = step_time(recipe, phase, layout, replicas, gpu, assumptions)
    return Candidate(
        layout=layout,
        micro_batch_size=phase.micro_batch_size,
        replicas=replicas,
        micro_batches=phase.global_batch_size // (phase.micro_batch_size * replicas),
        memory=memory,
        fits=memory.total <= usable_bytes(gpu, assumptions),
        time=time,
        mfu=model_flops_utilisation(recipe, phase, gpus, time.total, gpu),
        tokens_per_second=phase.tokens_per_step / time.total,
    )


def refuse(recipe: Recipe, phase: PhaseConfig, gpus: int) -> None:
    """Raise SeedError where training would refuse the phase."""
    check_layout(recipe.model_copy(update={"phases": (phase,)}), gpus)


def best_layouts(
    recipe: Recipe, phase: PhaseConfig, gpus: int, gpu: Gpu, assumptions: Assumptions, count: int = 5
) -> list[Candidate]:
    """The fastest that fit, one for each split into tensor, pipeline and context.

    When none fits, the one that needs least memory; empty when none is possible.

    Searched: tensor (within a node), pipeline, virtual pipeline and context parallel, sequence parallel, recompute and
    micro-batch sizes. Batch, overlaps and the distributed optimizer stay as the recipe has them.
    """
    best: dict[tuple[int, int, int], Candidate] = {}
    leanest: Candidate | None = None
    for changed in _variants(recipe, phase, gpus, gpu):
        try:
            found = evaluate(recipe, changed, gpus, gpu, assumptions)
        except SeedError:
            continue
        if leanest is None or found.memory.total < leanest.memory.total:
            leanest = found
        layout = found.layout
        split = (layout.tensor_parallel, layout.pipeline_parallel, layout.context_parallel)
        if found.fits and (split not in best or found.time.total < best[split].time.total):
            best[split] = found
    if not best:
        return [leanest] if leanest else []
    return sorted(best.values(), key=lambda candidate: candidate.time.total)[:count]


def _variants(recipe: Recipe, phase: PhaseConfig, gpus: int, gpu: Gpu) -> Iterator[PhaseConfig]:
    """The phase in every layout that divides processes and layers; most are refused by what else must divide."""
    base = recipe.layout_of(phase)
    layers = recipe.model.num_layers
    splits = itertools.product(
        (size for size in _divisors(gpu.gpus_per_node) if gpus % size == 0),
        _divisors(layers),
        (1, 2, 4, 8, 16),
    )
    for tensor, pipeline, context in splits:
        if gpus % (tensor * pipeline * context):
            continue
        virtual = _divisors(layers // pipeline) if pipeline > 1 else [1]
        sequence = (True, False) if tensor > 1 else (False,)
        for chunks, parallel, recompute, size in itertools.product(
            virtual, sequence, ("none", "selective", "full"), _MICRO_BATCH_SIZES
        ):
            changes = {
                "tensor_parallel": tensor,
                "pipeline_parallel": pipeline,
                "virtual_pipeline": chunks,
                "context_parallel": context,
                "sequence_parallel": parallel,
                "recompute": recompute,
            }
            layout = base.model_copy(update=changes)
            yield phase.model_copy(update={"layout": layout, "micro_batch_size": size})


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
