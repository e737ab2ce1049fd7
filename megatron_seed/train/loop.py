"""The loop over phases and steps. What else happens at a step is the business of hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.data.loader import PhaseData, cursors_after
from megatron_seed.errors import SeedError
from megatron_seed.optim.build import set_learning_rate
from megatron_seed.optim.schedule import learning_rate_at
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run
from megatron_seed.train.step import train_step


def run_phases(run: Run, phases: Sequence[PhaseConfig], progress: Progress, hooks: Sequence[Hook]) -> Progress:
    """Run phases of one layout, from where `progress` stands in the first of them."""
    for hook in hooks:
        hook.start(progress)
    for phase in phases:
        progress = _enter(run.recipe, phase, progress)
        data = PhaseData.open(
            phase,
            run.recipe.seed,
            run.recipe.model.vocab_size,
            progress.cursors,
            progress.blend,
            order_cache=run.recipe.order_cache,
        )
        run.recorder.note(segment_row(run.recipe, phase, progress))
        while progress.phase_tokens < phase.tokens:
            record = _step(run, phase, data, progress)
            progress = record.progress
            for hook in hooks:
                hook.after_step(record)
    for hook in hooks:
        hook.finish(progress)
    return progress


def _enter(recipe: Recipe, phase: PhaseConfig, progress: Progress) -> Progress:
    """At the border of two phases each source goes on from where the one before left it."""
    if progress.phase == phase.name:
        return progress
    before = next((known for known in recipe.phases if known.name == progress.phase), None)
    if before:
        after = cursors_after(before, recipe.seed, progress.cursors, progress.blend, progress.segment_samples)
        progress = progress.new_segment(after)
    return progress.model_copy(update={"phase": phase.name, "phase_tokens": 0})


def segment_row(recipe: Recipe, phase: PhaseConfig, progress: Progress) -> dict[str, Any]:
    """What decides the samples of the steps to come; `trace` reads it."""
    return {
        "kind": "segment",
        "step": progress.step,
        "seed": recipe.seed,
        "phase": phase.model_dump(mode="json"),
        **progress.model_dump(mode="json", include={"phase_tokens", "segment_samples", "cursors", "blend"}),
    }


def _step(run: Run, phase: PhaseConfig, data: PhaseData, progress: Progress) -> StepRecord:
    groups = run.groups
    began = time.perf_counter()
    size = phase.batch_size_at(progress.phase_tokens)
    tokens = size * phase.sequence_length
    rate = learning_rate_at(phase.learning_rate, progress.phase_tokens + tokens, phase.tokens)
    set_learning_rate(run.optimizer, rate)
    result = train_step(
        run.models,
        run.optimizer,
        data.micro_batches(progress.segment_samples, size, groups.data_rank, groups.data_size),
        size // (phase.micro_batch_size * groups.data_size),
        groups,
    )
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise SeedError(
            f"step {progress.step + 1}: loss {result.loss}, gradient norm {result.grad_norm}: the run has diverged; go "
            "on from an earlier checkpoint with a lower learning rate, or look at the data of this step"
        )
    samples = progress.segment_samples + size
    progress = progress.model_copy(
        update={
            "step": progress.step + 1,
            "phase_tokens": progress.phase_tokens + tokens,
            "consumed_tokens": progress.consumed_tokens + tokens,
            "segment_samples": samples,
            "blend": data.blend.memo(samples),
        }
    )
    return StepRecord(progress, result, rate, time.perf_counter() - began, tokens)
