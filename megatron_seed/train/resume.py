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
from megatron_seed.config.schema import Recipe, StartFrom
from megatron_seed.errors import SeedError
from megatron_seed.model.score import HEADS
from megatron_seed.optim.build import apply_settings
from megatron_seed.runtime.groups import Groups
from megatron_seed.train.standing import branched, by_the_recipe_now, recipe_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A checkpoint to load, and how when it is another run's."""

    checkpoint: Path
    branch: StartFrom | None = None

    @property
    def new_head(self) -> bool:
        """The head is not the checkpoint's."""
        return self.branch is not None and self.branch.load == "backbone"


def find_start(recipe: Recipe, groups: Groups) -> Start | None:
    """The run's own newest good checkpoint before what the recipe says to start from; None to start with nothing."""
    own = newest_good(recipe.run_dir, groups)
    if own is not None:
        return Start(own)
    if recipe.start_from is None:
        return None
    # One look for all ranks: the run that it is from may be saving.
    asked = recipe.start_from.checkpoint
    foreign, checkpoint = groups.from_main((megatron_lm.find(asked), resolve(asked)))
    if foreign is not None:
        return Start(foreign, recipe.start_from)
    damage = find_damage_together(checkpoint, groups)
    if damage:
        raise SeedError(f"start_from: {damage}")
    return Start(checkpoint, recipe.start_from)


def load_start(
    where: Start, recipe: Recipe, models: Sequence[Any], optimizer: MegatronOptimizer, groups: Groups
) -> Progress:
    """Load a checkpoint and say where the run stands by the recipe as it is now."""
    weights_only = where.branch is not None and where.branch.load != "everything"
    without = HEADS if where.new_head else ()
    say = logger.info if groups.is_main else logger.debug
    if megatron_lm.find(where.checkpoint) == where.checkpoint:
        theirs = megatron_lm.MegatronLmCheckpoint(where.checkpoint, recipe.model)
        progress = load_megatron_lm(theirs, models, None if weights_only else optimizer, without)
        origin, remarks = "going on from Megatron-LM's", megatron_lm.remarks(theirs, recipe.model)
    else:
        check_same_model(where.checkpoint, recipe.model, where.new_head)
        progress = load_checkpoint(where.checkpoint, models, None if weights_only else optimizer, without)
        origin, remarks = "branching from" if where.branch else "resuming from", []
    if weights_only:
        optimizer.reload_model_params()
    apply_settings(optimizer, recipe.optimizer)
    more = f"; {'; '.join(remarks)}" if remarks else ""
    say("%s %s: step %d, %d tokens%s", origin, where.checkpoint, progress.step, progress.consumed_tokens, more)
    before = recipe_of(where.checkpoint)
    if before is not None:
        progress = by_the_recipe_now(progress, before, recipe, say)
    if where.branch is not None:
        progress = branched(progress, where.branch, before, recipe, say)
        progress = progress.model_copy(update={"parent": str(where.checkpoint)})
    return progress
