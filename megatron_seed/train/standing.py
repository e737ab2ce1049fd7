"""Where a run stands by the recipe as it is now: which phases are left, and where its sources go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_seed.checkpoint import layout, megatron_lm
from megatron_seed.checkpoint.state import Progress, read_progress
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import LearningRate, PhaseConfig, Recipe, StartFrom
from megatron_seed.data.cursor import Cursor
from megatron_seed.data.loader import cursors_after, same_order
from megatron_seed.data.order import Reading
from megatron_seed.errors import SeedError
from megatron_seed.optim.schedule import learning_rate_at

Say = Callable[..., None]
"""A logger's method."""


def phases_left(recipe: Recipe, phases: Sequence[PhaseConfig], progress: Progress) -> list[PhaseConfig]:
    """Those of `phases` in which there is something left to do."""
    names = [phase.name for phase in recipe.phases]
    if not progress.phase:
        return list(phases)
    if progress.phase not in names:
        raise SeedError(
            f"the checkpoint stands in phase {progress.phase!r}, which the recipe does not have; its phases: "
            f"{', '.join(names)}"
        )
    current = names.index(progress.phase)
    return [
        phase
        for phase in phases
        if names.index(phase.name) > current or (phase.name == progress.phase and progress.phase_tokens < phase.tokens)
    ]


def steps_left(recipe: Recipe, progress: Progress) -> int:
    """To the end of the recipe, as it is now."""
    left = phases_left(recipe, recipe.phases, progress)
    return sum(phase.steps_after(progress.phase_tokens if phase.name == progress.phase else 0) for phase in left)


def recipe_of(checkpoint: Path) -> Recipe | None:
    """The recipe that a checkpoint was trained with, None for one of another maker."""
    path = checkpoint / "recipe.yaml"
    return load_recipe(path) if path.is_file() else None


def by_the_recipe_now(progress: Progress, before: Recipe, now: Recipe, say: Say) -> Progress:
    """Note a changed rate; where the mixture or the sequence length changed, sources go on from where they stand."""
    old, new = _phase(before, progress.phase), _phase(now, progress.phase)
    if old is None or new is None:
        return progress
    _note_rate(old, new, progress, say)
    if same_order(old, new) and before.seed == now.seed:
        return progress
    say("phase %s: the blend, sequence length or shuffle changed; sources go on from where they stand", new.name)
    return progress.new_segment(sources_now(progress, before))


def _note_rate(old: PhaseConfig, new: PhaseConfig, progress: Progress, say: Say) -> None:
    """One line where the schedule changed, by its settings or because it runs over another budget."""
    rates = [learning_rate_at(phase.learning_rate, progress.phase_tokens, phase.tokens) for phase in (old, new)]
    stretched = old.tokens != new.tokens and new.learning_rate.depends_on_budget
    if old.learning_rate == new.learning_rate and not stretched:
        return
    over = f" over {new.tokens} tokens, before {old.tokens}" if stretched else ""
    say("phase %s: the learning rate is now %s%s: %.4g at this point; the checkpoint was trained with %s: %.4g",
        new.name, _told(new.learning_rate), over, rates[1], _told(old.learning_rate), rates[0])  # fmt: skip


def _told(rate: LearningRate) -> str:
    settings = rate.model_dump(exclude_defaults=True)
    return ", ".join([rate.schedule, *(f"{name} {value}" for name, value in settings.items() if name != "schedule")])


def branched(progress: Progress, branch: StartFrom, before: Recipe | None, recipe: Recipe, say: Say) -> Progress:
    """Where a run begins that another one's checkpoint is loaded into."""
    fresh = branch.cursors == "fresh"
    goes_on = not progress.phase or _phase(recipe, progress.phase) is not None
    if branch.load == "everything" and goes_on:
        return progress.new_segment({}) if fresh else progress
    cursors = {} if fresh else sources_now(progress, before)
    if branch.load != "everything":
        return Progress(cursors=cursors)
    say("phase %s of the parent is none of this recipe's: it begins with %s", progress.phase, recipe.phases[0].name)
    return progress.new_segment(cursors).model_copy(update={"phase": "", "phase_tokens": 0})


def sources_now(progress: Progress, before: Recipe | None) -> dict[str, Cursor]:
    """Where each source stands after the last step; `before` is the recipe that it was trained with."""
    phase = _phase(before, progress.phase) if before else None
    if phase is None:
        return progress.cursors
    return cursors_after(phase, before.seed, progress.cursors, progress.blend, progress.segment_samples)


def check_start(recipe: Recipe) -> None:
    """Raise SeedError where the checkpoint that a new run is to begin with is not there, with those that are."""
    branch = recipe.start_from
    if branch is None or layout.finished(recipe.run_dir) or megatron_lm.find(branch.checkpoint):
        return
    if (layout.resolve(branch.checkpoint) / ".metadata").is_file():
        return
    run_dir = branch.checkpoint.parent.parent if layout.is_name(branch.checkpoint.name) else branch.checkpoint
    steps = ", ".join(str(layout.step_of(path)) for path in layout.finished(run_dir))
    there = f"; {run_dir} has those of the steps {steps}" if steps else ""
    raise SeedError(f"start_from: {branch.checkpoint}: no checkpoint there{there}")


def stands(checkpoint: Path, branch: StartFrom | None, recipe: Recipe) -> Progress:
    """Where a run will go on that loads a checkpoint, another run's with `branch`; only its state is read."""
    if not (checkpoint / "state.json").is_file():  # of another maker, whose progress says nothing of phases
        return Progress()
    progress, before = read_progress(checkpoint), recipe_of(checkpoint)
    if before is not None:
        progress = by_the_recipe_now(progress, before, recipe, _nothing)
    return branched(progress, branch, before, recipe, _nothing) if branch else progress


def reading_of(recipe: Recipe) -> Reading:
    """What a run will read from where it will begin, told by state files alone: nothing is loaded, no digest is taken.

    Of several checkpoints the oldest counts, for it is the last that a run may fall back to.
    """
    own, branch = layout.finished(recipe.run_dir), recipe.start_from
    if not own and branch is None:
        return Reading(recipe.phases, {})
    try:
        progress = stands(own[0], None, recipe) if own else stands(layout.resolve(branch.checkpoint), branch, recipe)
    except SeedError:  # said where the checkpoint is loaded
        return Reading(recipe.phases, {})
    left = phases_left(recipe, recipe.phases, progress)
    if left and left[0].name == progress.phase:
        left[0] = left[0].model_copy(update={"tokens": left[0].tokens - progress.phase_tokens})
    return Reading(left, {name: cursor.first for name, cursor in sources_now(progress, recipe).items()})


def _phase(recipe: Recipe, name: str) -> PhaseConfig | None:
    return next((phase for phase in recipe.phases if phase.name == name), None)


def _nothing(*_: object) -> None:
    """Says nothing."""
