"""A training run from recipe to last step: build, resume, loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.load import check_same_model, load_checkpoint, newest_good
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.data.held_out import HeldOut
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.model.build import build_model
from megatron_seed.optim.build import apply_settings, build_optimizer, wrap_data_parallel
from megatron_seed.runtime.groups import Groups, process_groups, read_launch
from megatron_seed.train.hooks.evaluate import EvaluateHook
from megatron_seed.train.hooks.log import LogHook
from megatron_seed.train.hooks.save import SaveHook
from megatron_seed.train.loop import run_phases
from megatron_seed.train.record import Recorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What hooks and loop work with; the parts do not change, their contents do."""

    recipe: Recipe
    groups: Groups
    models: Sequence[DistributedDataParallel]
    optimizer: MegatronOptimizer
    recorder: Recorder


def train(recipe: Recipe) -> Progress:
    """Train a recipe to its end, going on from the newest good checkpoint of its run folder.

    Raises SeedError before anything starts when layout or data cannot work.
    """
    check_layout(recipe, read_launch().world_size)
    held_out = check_data(recipe)
    with process_groups(recipe.layout, recipe.seed) as groups:
        run, progress = start(recipe, groups)
        try:
            return run_phases(run, progress, [LogHook(run), EvaluateHook(run, held_out), SaveHook(run)])
        finally:
            run.recorder.close()


def check_data(recipe: Recipe) -> list[HeldOut]:
    """Open every build of every phase once; raises SeedError for what is damaged, missing or does not fit."""
    for phase in recipe.phases:
        PhaseData.open(phase, recipe.seed, recipe.model.vocab_size, {})
    if recipe.tokenizer and not recipe.tokenizer.is_dir():
        raise SeedError(f"tokenizer {recipe.tokenizer}: no such directory")
    evaluation = recipe.evaluation
    length = max(phase.sequence_length for phase in recipe.phases)
    return [
        HeldOut.open(source, recipe.model.vocab_size, length, evaluation.max_sequences)
        for source in evaluation.held_out
    ]


def start(recipe: Recipe, groups: Groups) -> tuple[Run, Progress]:
    """Build model and optimizer and put them where the run stands."""
    if groups.is_main:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        manifest.write_text(recipe.run_dir / "config.yaml", dump_recipe(recipe))
    checkpoint = newest_good(recipe.run_dir, groups)
    chunks = build_model(
        recipe.model, recipe.layout, recipe.precision, seed=recipe.seed if checkpoint is None else None
    )
    models = wrap_data_parallel(chunks, recipe.layout)
    optimizer = build_optimizer(models, recipe.optimizer, recipe.layout, recipe.precision)
    progress = Progress(phase=recipe.phases[0].name)
    if checkpoint is not None:
        check_same_model(checkpoint, recipe.model)
        progress = load_checkpoint(checkpoint, models, optimizer)
        apply_settings(optimizer, recipe.optimizer)
        if groups.is_main:
            logger.info("resumed from %s: step %d, %d tokens", checkpoint, progress.step, progress.consumed_tokens)
    recorder = Recorder(recipe, progress.step, active=groups.is_main)
    return Run(recipe, groups, models, optimizer, recorder), progress
