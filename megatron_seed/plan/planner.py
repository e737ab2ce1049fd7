"""The whole plan of a recipe on so many GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_seed.config.schema import LayoutConfig, PhaseConfig, Recipe
from megatron_seed.errors import SeedError
from megatron_seed.model.arithmetic import (
    embedding_parameter_count,
    flops_per_token,
    layer_parameter_count,
    parameter_count,
)
from megatron_seed.plan import faults
from megatron_seed.plan.faults import Reliability
from megatron_seed.plan.hardware import Assumptions, Gpu
from megatron_seed.plan.layouts import Candidate, best_layouts, evaluate, usable_bytes
from megatron_seed.plan.memory import checkpoint_bytes

_DAY_S = 86_400.0


@dataclass(frozen=True)
class ModelPlan:
    parameters: int
    embedding_parameters: int
    layer_parameters: int
    """Of each layer."""
    num_layers: int


@dataclass(frozen=True)
class PhasePlan:
    name: str
    tokens: int
    steps: int
    tokens_per_step: int
    sequence_length: int
    flops_per_token_causal: float
    flops_per_token_full: float
    flops_causal: float
    """Of the whole phase."""
    days: float
    """At the given model FLOPs utilisation (causal), without failures."""
    layout: LayoutConfig
    """The recipe's own."""
    own: Candidate | None
    problem: str | None
    """Why the recipe's own layout cannot be on so many GPUs."""
    best: tuple[Candidate, ...]


@dataclass(frozen=True)
class CheckpointPlan:
    size_bytes: float
    bytes_per_node: float
    """Written by each node; and its memory for the copy of an asynchronous save."""
    reliability: Reliability
    asynchronous: bool
    interval_young_s: float
    interval_daly_s: float
    interval_steps: tuple[int, ...]
    """Daly's interval in steps of each phase, at the given utilisation."""
    goodput: float
    """At Daly's interval."""
    every_steps: int
    """The recipe's own."""
    own_goodput: float


@dataclass(frozen=True)
class Plan:
    recipe: str
    gpus: int
    nodes: int
    gpu: Gpu
    assumptions: Assumptions
    mfu: float
    usable_bytes_per_gpu: float
    model: ModelPlan
    phases: tuple[PhasePlan, ...]
    days: float
    checkpoint: CheckpointPlan

    @property
    def days_with_failures(self) -> float:
        return self.days / self.checkpoint.goodput if self.checkpoint.goodput else math.inf


def make_plan(recipe: Recipe, gpus: int, gpu: Gpu, assumptions: Assumptions, mfu: float, layouts: int = 5) -> Plan:
    """Plan every phase; data, tokenizer and GPUs need not be there. SeedError for what no layout
    can help: an impossible utilisation, a GPU without FP8."""
    if not 0.0 < mfu <= 1.0:
        raise SeedError(f"mfu {mfu}: must be above 0 and at most 1")
    gpu.flops(recipe.precision, recipe.fp8 != "off")
    phases = tuple(_phase(recipe, phase, gpus, gpu, assumptions, mfu, layouts) for phase in recipe.phases)
    model = recipe.model
    return Plan(
        recipe=recipe.name,
        gpus=gpus,
        nodes=-(-gpus // gpu.gpus_per_node),
        gpu=gpu,
        assumptions=assumptions,
        mfu=mfu,
        usable_bytes_per_gpu=usable_bytes(gpu, assumptions),
        model=ModelPlan(
            parameter_count(model), embedding_parameter_count(model), layer_parameter_count(model), model.num_layers
        ),
        phases=phases,
        days=sum(phase.days for phase in phases),
        checkpoint=_checkpoint(recipe, phases, gpus, gpu, assumptions),
    )


def _phase(
    recipe: Recipe, phase: PhaseConfig, gpus: int, gpu: Gpu, assumptions: Assumptions, mfu: float, layouts: int
) -> PhasePlan:
    causal = flops_per_token(recipe.model, phase.sequence_length)
    own, problem = None, None
    try:
        own = evaluate(recipe, phase, gpus, gpu, assumptions)
    except SeedError as error:
        problem = str(error)
    return PhasePlan(
        name=phase.name,
        tokens=phase.tokens,
        steps=phase.steps,
        tokens_per_step=phase.tokens_per_step,
        sequence_length=phase.sequence_length,
        flops_per_token_causal=causal,
        flops_per_token_full=flops_per_token(recipe.model, phase.sequence_length, causal=False),
        flops_causal=causal * phase.tokens,
        days=causal * phase.tokens / (gpus * mfu * gpu.flops(recipe.precision, fp8=False)) / _DAY_S,
        layout=recipe.layout_of(phase),
        own=own,
        problem=problem,
        best=tuple(best_layouts(recipe, phase, gpus, gpu, assumptions, layouts)),
    )


def _checkpoint(
    recipe: Recipe, phases: tuple[PhasePlan, ...], gpus: int, gpu: Gpu, assumptions: Assumptions
) -> CheckpointPlan:
    nodes = -(-gpus // gpu.gpus_per_node)
    size_bytes = checkpoint_bytes(recipe)
    write_s = size_bytes / nodes / assumptions.storage_bytes_per_s
    copy_s = size_bytes / gpus / gpu.host_bytes_per_s
    asynchronous = recipe.checkpoint.asynchronous
    reliability = Reliability(
        mtbf_s=faults.job_mtbf_s(assumptions.mtbf_node_hours, nodes),
        pause_s=assumptions.save_pause_s + (copy_s if asynchronous else write_s),
        write_s=write_s if asynchronous else 0.0,
        # Every node reads what it needs again.
        restart_s=assumptions.restart_s + write_s,
    )
    # One save at a time: a save that is asked for earlier waits.
    interval_s = max(faults.daly_interval_s(reliability), reliability.write_s)
    step_s = [phase.days * _DAY_S / phase.steps for phase in phases]
    own_interval_s = recipe.checkpoint.every_steps * _DAY_S * sum(p.days for p in phases) / sum(p.steps for p in phases)
    return CheckpointPlan(
        size_bytes=size_bytes,
        bytes_per_node=size_bytes / nodes,
        reliability=reliability,
        asynchronous=asynchronous,
        interval_young_s=faults.young_interval_s(reliability),
        interval_daly_s=interval_s,
        interval_steps=tuple(max(1, round(interval_s / seconds)) for seconds in step_s),
        goodput=faults.goodput(interval_s, reliability),
        every_steps=recipe.checkpoint.every_steps,
        own_goodput=faults.goodput(own_interval_s, reliability),
    )
