"""Impossible layouts, refused before anything starts."""

from __future__ import annotations

from megatron_seed.config.schema import LayoutConfig, ModelConfig, PhaseConfig, Recipe
from megatron_seed.errors import SeedError


def data_parallel_size(layout: LayoutConfig, world_size: int) -> int:
    """Replicas of the model on `world_size` processes; raises SeedError when they do not come out even."""
    if world_size % layout.model_parallel_size:
        raise SeedError(
            f"{world_size} processes do not divide by tensor_parallel {layout.tensor_parallel} x "
            f"pipeline_parallel {layout.pipeline_parallel} = {layout.model_parallel_size}"
        )
    return world_size // layout.model_parallel_size


def check_layout(recipe: Recipe, world_size: int) -> None:
    """Raise one SeedError naming every number of the recipe that does not divide what it must."""
    replicas = data_parallel_size(recipe.layout, world_size)
    problems = _model_problems(recipe.model, recipe.layout)
    for phase in recipe.phases:
        problems += _phase_problems(phase, recipe, replicas)
    if problems:
        raise SeedError("impossible layout: " + "; ".join(problems))


def _model_problems(model: ModelConfig, layout: LayoutConfig) -> list[str]:
    tensor = layout.tensor_parallel
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
    if model.num_layers % layout.pipeline_parallel:
        problems.append(
            f"num_layers {model.num_layers} does not divide by pipeline_parallel {layout.pipeline_parallel}"
        )
    if layout.sequence_parallel and tensor == 1:
        problems.append("sequence_parallel needs tensor_parallel > 1")
    return problems


def _phase_problems(phase: PhaseConfig, recipe: Recipe, replicas: int) -> list[str]:
    problems = []
    per_pass = phase.micro_batch_size * replicas
    if phase.global_batch_size % per_pass:
        problems.append(
            f"phase {phase.name}: global_batch_size {phase.global_batch_size} does not divide by micro_batch_size "
            f"{phase.micro_batch_size} x data parallel {replicas} = {per_pass}"
        )
    if phase.sequence_length > recipe.model.max_sequence_length:
        problems.append(
            f"phase {phase.name}: sequence_length {phase.sequence_length} is above the model's "
            f"max_sequence_length {recipe.model.max_sequence_length}"
        )
    if recipe.layout.sequence_parallel and phase.sequence_length % recipe.layout.tensor_parallel:
        problems.append(
            f"phase {phase.name}: sequence_length {phase.sequence_length} does not divide by tensor_parallel "
            f"{recipe.layout.tensor_parallel}, which sequence_parallel needs"
        )
    return problems
