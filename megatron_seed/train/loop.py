"""The loop over phases and steps. What else happens at a step is the business of hooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.data.loader import Batch, PhaseData, cursors_after
from megatron_seed.data.prefetch import Prefetch
from megatron_seed.data.scored import phase_data
from megatron_seed.errors import SeedError
from megatron_seed.optim.build import set_learning_rate
from megatron_seed.optim.schedule import learning_rate_at
from megatron_seed.train.guard import guarded_step
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.rollback import jumped, roll_back
from megatron_seed.train.standing import phases_left
from megatron_seed.train.state import Run

_POLL_S = 1.0
"""How long to wait for data before asking the other ranks whether to go on waiting."""


def run_phases(run: Run, phases: Sequence[PhaseConfig], progress: Progress, hooks: Sequence[Hook]) -> Progress:
    """Run what is left of phases of one layout.

    Ends early with `run.stop.reason`, when the job is told to stop, or where it went back to before these phases.
    """
    try:
        for hook in hooks:
            hook.start(progress)
        progress = _run_all(run, phases, progress, hooks)
        for hook in hooks:
            if run.stop.reason:
                hook.stop(progress)
            elif not phases_left(run.recipe, phases, progress):
                hook.finish(progress)
    finally:
        for hook in hooks:
            hook.close()
    return progress


def _run_all(run: Run, phases: Sequence[PhaseConfig], progress: Progress, hooks: Sequence[Hook]) -> Progress:
    rollbacks = 0
    while not run.stop.reason and (phase := _next_phase(run.recipe, phases, progress)):
        progress = _run_phase(run, phase, progress, hooks)
        if progress.skips >= run.recipe.guard.max_skips:
            rollbacks += 1
            progress = _go_back(run, progress, hooks, rollbacks)
    return progress


def _next_phase(recipe: Recipe, phases: Sequence[PhaseConfig], progress: Progress) -> PhaseConfig | None:
    """The first of the whole recipe in which something is left, if it is one of these."""
    left = phases_left(recipe, recipe.phases, progress)
    return left[0] if left and left[0] in phases else None


def _run_phase(run: Run, phase: PhaseConfig, progress: Progress, hooks: Sequence[Hook]) -> Progress:
    """Steps until the phase is done, too many updates in a row were left out, or the job is to stop."""
    progress = _enter(run.recipe, phase, progress)
    vocab_size, cache = run.recipe.model.vocab_size, run.recipe.order_cache
    kind = phase_data(run.recipe)
    data = kind.open(phase, run.recipe.seed, vocab_size, progress.cursors, progress.blend, order_cache=cache)
    groups = run.groups
    ahead = Prefetch(lambda first, size: list(data.micro_batches(first, size, groups.data_rank, groups.data_size)))
    run.recorder.note(segment_row(run.recipe, phase, progress, run.groups.data_size))
    run.watchdog.beat(f"step {progress.step}", starting=True)
    while progress.phase_tokens < phase.tokens and progress.skips < run.recipe.guard.max_skips:
        record = _step(run, phase, data, ahead, progress)
        if record is None:
            break
        progress = record.progress
        run.watchdog.beat(f"step {progress.step}")
        for hook in hooks:
            hook.timed_after_step(record)
        run.watchdog.beat(f"step {progress.step}")
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


def segment_row(recipe: Recipe, phase: PhaseConfig, progress: Progress, data_size: int) -> dict[str, Any]:
    """What decides the samples of the steps to come; `trace` reads it."""
    return {
        "kind": "segment",
        "step": progress.step,
        "seed": recipe.seed,
        "phase": phase.model_dump(mode="json"),
        "data_parallel": data_size,
        **progress.model_dump(mode="json", include={"phase_tokens", "segment_samples", "cursors", "blend"}),
    }


def _step(run: Run, phase: PhaseConfig, data: PhaseData, ahead: Prefetch, progress: Progress) -> StepRecord | None:
    """One step, None when the job is to stop before it."""
    began = time.perf_counter()
    size = phase.batch_size_at(progress.phase_tokens)
    progress = _past_bad_data(run, phase, data, progress, size)
    batches = _batches(run, ahead, (progress.segment_samples, size))
    if batches is None:
        return None
    tokens, samples = size * phase.sequence_length, progress.segment_samples + size
    ahead.ask((samples, phase.batch_size_at(progress.phase_tokens + tokens)))
    data_s = time.perf_counter() - began
    rate = learning_rate_at(phase.learning_rate, progress.phase_tokens + tokens, phase.tokens)
    set_learning_rate(run.optimizer, rate)
    result = guarded_step(run, progress, batches)
    done = {
        "step": progress.step + 1,
        "phase_tokens": progress.phase_tokens + tokens,
        "consumed_tokens": progress.consumed_tokens + tokens,
        "segment_samples": samples,
        "blend": data.blend.memo(samples),
    }
    if result.problem is None:
        recent = (*progress.recent_losses, result.loss)[-run.recipe.guard.spike_window :]
        done |= {"skips": 0, "recent_losses": recent}
    else:
        first = progress.first_skipped if progress.skips else progress.segment_samples
        done |= {"skips": progress.skips + 1, "first_skipped": first}
    progress = progress.model_copy(update=done)
    return StepRecord(progress, result, rate, time.perf_counter() - began, data_s, tokens)


def _past_bad_data(run: Run, phase: PhaseConfig, data: PhaseData, progress: Progress, size: int) -> Progress:
    past = jumped(progress, size)
    if past is not progress and past.segment_samples != progress.segment_samples:
        progress = past.model_copy(update={"blend": data.blend.memo(past.segment_samples)})
        run.recorder.note(segment_row(run.recipe, phase, progress, run.groups.data_size))
    return progress


def _batches(run: Run, ahead: Prefetch, samples: tuple[int, int]) -> Sequence[Batch] | None:
    """This rank's micro-batches of a step once every rank has its own; None when the job is to stop."""
    ahead.ask(samples)
    while True:
        batches = ahead.take(_POLL_S)
        run.watchdog.doing("waiting for the others' data" if batches is not None else "waiting for its data")
        ready = run.stop.poll(batches is not None)
        if run.stop.reason:
            return None
        if ready:
            run.watchdog.doing("")
            return batches


def _go_back(run: Run, progress: Progress, hooks: Sequence[Hook], rollbacks: int) -> Progress:
    if rollbacks > run.recipe.guard.max_rollbacks:
        raise SeedError(
            f"step {progress.step}: {progress.skips} updates left out in a row, after going back "
            f"{rollbacks - 1} times: the run has diverged; go on from an earlier checkpoint with a lower learning rate"
        )
    for hook in hooks:
        hook.settle()
    run.watchdog.beat(f"step {progress.step}", starting=True)
    progress = roll_back(run, progress)
    for hook in hooks:
        hook.rewind(progress)
    return progress
