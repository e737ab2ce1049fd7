"""Impossible layouts, refused before anything starts."""

from __future__ import annotations

from megatron_seed.config.schema import LayoutConfig, ModelConfig, PhaseConfig, Recipe
from megatron_seed.errors import SeedError


def data_parallel_size(layout: LayoutConfig, world_size: int) -> int:
    """Replicas of the model on `world_size` processes; raises SeedError when they do not come out even."""
    if world_size % layout.model_parallel_size:
        raise SeedError(
            f"{world_size} processes do not divide by tensor_parallel {layout.tensor_parallel} x pipeline_parallel "
            f"{layout.pipeline_parallel} x context_parallel {layout.context_parallel} = {layout.model_parallel_size}"
        )
    return world_size // layout.model_parallel_size


def check_layout(recipe: Recipe, world_size: int) -> None:
    """Raise one SeedError naming every number of the recipe that does not divide what it must."""
    problems = []
    for phase in recipe.phases:
        layout = recipe.layout_of(phase)
        try:
            replicas = data_parallel_size(layout, world_size)
        except SeedError as error:
            problems.append(f"phase {phase.name}: {error}")
            continue
        found = [*_model_problems(recipe.model, layout), *_phase_problems(phase, recipe, layout, replicas)]
        problems += [f"phase {phase.name}: {problem}" for problem in found]
    if problems:
        raise SeedError("impossible layout: " + "; ".join(problems))


def _model_problems(model: ModelConfig, layout: LayoutConfig) -> list[str]:
    tensor, chunks = layout.tensor_parallel, layout.pipeline_parallel * layout.virtual_pipeline
    problems = [
        f"{name} {size} does not divide by tensor_parallel {tensor}"
        for name, size in (
            ("num_attention_heads", model.num_attention_heads),
            ("num_query_groups", model.num_query_groups),
            ("ffn_hidden_size", model.ffn_hidden_size),
            ("padded vocabulary", model.padded_vocab_size),
        )
        if size % tensor
    ]
    if model.num_layers % chunks:
        virtual = f" x virtual_pipeline {layout.virtual_pipeline}" if layout.virtual_pipeline > 1 else ""
        stages = f"pipeline_parallel {layout.pipeline_parallel}{virtual}"
        problems.append(f"num_layers {model.num_layers} does not divide by {stages}")
    if layout.sequence_parallel and tensor == 1:
        problems.append("sequence_parallel needs tensor_parallel > 1")
    if layout.virtual_pipeline > 1 and layout.pipeline_parallel == 1:
        problems.append("virtual_pipeline needs pipeline_parallel > 1")
    if layout.overlap_param_gather and not (layout.distributed_optimizer and layout.overlap_grad_reduce):
        problems.append("overlap_param_gather needs distributed_optimizer and overlap_grad_reduce")
    return problems


def _phase_problems(phase: PhaseConfig, recipe: Recipe, layout: LayoutConfig, replicas: int) -> list[str]:
    problems = []
    per_pass = phase.micro_batch_size * replicas
    ramp = phase.batch_ramp
    sizes = {"global_batch_size": phase.global_batch_size}
    if ramp:
        sizes |= {"batch_ramp.start": ramp.start, "batch_ramp.increment": ramp.increment}
    for name, size in sizes.items():
        if size % per_pass:
            problems.append(
                f"{name} {size} does not divide by micro_batch_size {phase.micro_batch_size} x data parallel "
                f"{replicas} = {per_pass}"
            )
        elif layout.virtual_pipeline > 1 and size // per_pass % layout.pipeline_parallel:
            problems.append(
                f"{name} {size} makes {size // per_pass} micro-batches, which do not divide by pipeline_parallel "
                f"{layout.pipeline_parallel}, as virtual_pipeline needs"
            )
    if phase.sequence_length > recipe.model.max_sequence_length:
        problems.append(
            f"sequence_length {phase.sequence_length} is above the model's max_sequence_length "
            f"{recipe.model.max_sequence_length}"
        )
    context = layout.context_parallel
    pieces = (2 * context if context > 1 else 1) * (layout.tensor_parallel if layout.sequence_parallel else 1)
    if phase.sequence_length % pieces:
        reasons = [f"2 x context_parallel {context}"] if context > 1 else []
        reasons += [f"tensor_parallel {layout.tensor_parallel} (sequence_parallel)"] if layout.sequence_parallel else []
        problems.append(f"sequence_length {phase.sequence_length} does not divide by {' x '.join(reasons)} = {pieces}")
    return problems
