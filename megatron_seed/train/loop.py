"""The loop over phases and steps. What else happens at a step is the business of hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.optim.build import set_learning_rate
from megatron_seed.optim.schedule import learning_rate_at
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.step import train_step

if TYPE_CHECKING:
    from megatron_seed.train.run import Run


def run_phases(run: Run, progress: Progress, hooks: Sequence[Hook]) -> Progress:
    """Run every phase that is not over yet, from where `progress` stands."""
    recipe = run.recipe
    for hook in hooks:
        hook.start(progress)
    data: PhaseData | None = None
    for phase in recipe.phases[_phase_index(recipe, progress) :]:
        if data is not None:  # the phase begins where the one before left each source
            after = data.cursors_after(progress.phase_step * data.phase.global_batch_size)
            progress = progress.model_copy(update={"phase": phase.name, "phase_step": 0, "cursors": after})
        data = PhaseData.open(phase, recipe.seed, recipe.model.vocab_size, progress.cursors)
        for _ in range(progress.phase_step, phase.steps):
            record = _step(run, phase, data, progress)
            progress = record.progress
            for hook in hooks:
                hook.after_step(record)
    for hook in hooks:
        hook.finish(progress)
    return progress


def _step(run: Run, phase: PhaseConfig, data: PhaseData, progress: Progress) -> StepRecord:
    groups = run.groups
    began = time.perf_counter()
    in_phase = (progress.phase_step + 1) * phase.tokens_per_step
    rate = learning_rate_at(phase.learning_rate, in_phase, phase.tokens)
    set_learning_rate(run.optimizer, rate)
    result = train_step(
        run.models,
        run.optimizer,
        data.micro_batches(progress.phase_step, groups.data_rank, groups.data_size),
        phase.global_batch_size // (phase.micro_batch_size * groups.data_size),
        groups,
    )
    progress = progress.model_copy(
        update={
            "step": progress.step + 1,
            "phase_step": progress.phase_step + 1,
            "consumed_tokens": progress.consumed_tokens + phase.tokens_per_step,
        }
    )
    seconds = time.perf_counter() - began
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise SeedError(
            f"step {progress.step}: loss {result.loss}, gradient norm {result.grad_norm}: the run has diverged; go on "
            "from an earlier checkpoint with a lower learning rate, or look at the data of this step"
        )
    return StepRecord(progress, result, rate, seconds, phase.tokens_per_step)


def _phase_index(recipe: Recipe, progress: Progress) -> int:
    names = [phase.name for phase in recipe.phases]
    if progress.phase not in names:
        raise SeedError(
            f"the checkpoint stands in phase {progress.phase!r}, which the recipe does not have; its phases: "
            f"{', '.join(names)}"
        )
    return names.index(progress.phase)
