"""Where a run begins: at its own newest checkpoint, at another run's, or at nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import megatron_lm
from megatron_seed.checkpoint.layout import resolve
from megatron_seed.checkpoint.load import (
    check_same_model,
    find_damage_together,
    load_checkpoint,
    load_megatron_lm,
    newest_good,
)
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import PhaseConfig, Recipe, StartFrom
from megatron_seed.data.loader import cursors_after, same_order
from megatron_seed.errors import SeedError
from megatron_seed.optim.build import apply_settings
from megatron_seed.runtime.groups import Groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A checkpoint to load, and how when it is another run's."""

    checkpoint: Path
    branch: StartFrom | None = None


def find_start(recipe: Recipe, groups: Groups) -> Start | None:
    """The run's own newest good checkpoint before what the recipe says to start from; None to start with nothing."""
    own = newest_good(recipe.run_dir, groups)
    if own is not None:
        return Start(own)
    if recipe.start_from is None:
        return None
    foreign = megatron_lm.find(recipe.start_from.checkpoint)
    if foreign is not None:
        return Start(foreign, recipe.start_from)
    checkpoint = resolve(recipe.start_from.checkpoint)
    damage = find_damage_together(checkpoint, groups)
    if damage:
        raise SeedError(f"start_from: {damage}")
    return Start(checkpoint, recipe.start_from)


def load_start(
    where: Start, recipe: Recipe, models: Sequence[Any], optimizer: MegatronOptimizer, groups: Groups
) -> Progress:
    """Load a checkpoint and say where the run stands by the recipe as it is now."""
    weights_only = where.branch is not None and where.branch.load == "weights"
    say = logger.info if groups.is_main else logger.debug
    if megatron_lm.find(where.checkpoint) == where.checkpoint:
        theirs = megatron_lm.MegatronLmCheckpoint(where.checkpoint, recipe.model)
        progress = load_megatron_lm(theirs, models, None if weights_only else optimizer)
        origin, remarks = "going on from Megatron-LM's", megatron_lm.remarks(theirs, recipe.model)
    else:
        check_same_model(where.checkpoint, recipe.model)
        progress = load_checkpoint(where.checkpoint, models, None if weights_only else optimizer)
        origin, remarks = "branching from" if where.branch else "resuming from", []
    if weights_only:
        optimizer.reload_model_params()
    apply_settings(optimizer, recipe.optimizer)
    more = f"; {'; '.join(remarks)}" if remarks else ""
    say("%s %s: step %d, %d tokens%s", origin, where.checkpoint, progress.step, progress.consumed_tokens, more)
    before = _recipe_of(where.checkpoint)
    if before is not None:
        progress = _by_the_recipe_now(progress, before, recipe, say)
    if where.branch is not None:
        progress = _branched(progress, where.branch, before).model_copy(update={"parent": str(where.checkpoint)})
    return progress


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


def _recipe_of(checkpoint: Path) -> Recipe | None:
    path = checkpoint / "recipe.yaml"
    return load_recipe(path) if path.is_file() else None


def _by_the_recipe_now(progress: Progress, before: Recipe, now: Recipe, say: Any) -> Progress:
    """Note a changed rate; where the mixture or the sequence length changed, sources go on from where they stand."""
    old = next((phase for phase in before.phases if phase.name == progress.phase), None)
    new = next((phase for phase in now.phases if phase.name == progress.phase), None)
    if old is None or new is None:
        return progress
    if old.learning_rate != new.learning_rate:
        say("phase %s: the learning rate is now %s; the checkpoint was trained with %s", new.name,
            new.learning_rate, old.learning_rate)  # fmt: skip
    if same_order(old, new) and before.seed == now.seed:
        return progress
    say("phase %s: the blend, sequence length or shuffle changed; sources go on from where they stand", new.name)
    cursors = cursors_after(old, before.seed, progress.cursors, progress.blend, progress.segment_samples)
    return progress.new_segment(cursors)


def _branched(progress: Progress, branch: StartFrom, before: Recipe | None) -> Progress:
    if branch.cursors == "fresh":
        progress = progress.new_segment({})
    if branch.load == "everything":
        return progress
    # A run of its own, that still leaves alone what its parent was given.
    phase = next((phase for phase in before.phases if phase.name == progress.phase), None) if before else None
    if phase is None or branch.cursors == "fresh":
        return Progress(cursors=progress.cursors)
    return Progress(
        cursors=cursors_after(phase, before.seed, progress.cursors, progress.blend, progress.segment_samples)
    )
