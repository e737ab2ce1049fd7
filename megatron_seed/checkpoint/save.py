"""Writing a checkpoint: under a temporary name, forced to disk, digested, renamed; only then does it exist."""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.state import Progress, sharded_state
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.optim.build import whole_parameters
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups


def save_checkpoint(
    recipe: Recipe,
    progress: Progress,
    models: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    groups: Groups,
) -> Path:
    """Save parameters, optimizer and progress; every rank writes its part. Returns the finished folder."""
    target = layout.step_dir(recipe.run_dir, progress.step)
    temporary = target.with_name(f".{target.name}.tmp")
    if groups.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    # megatron-core would start a server process for this queue, which outlives a killed rank. Saves end before this
    # function does, so a queue of this process is enough.
    filesystem_async._results_queue = filesystem_async._results_queue or queue.Queue()
    strategy = FullyParallelSaveStrategyWrapper(
        get_default_save_sharded_strategy("torch_dist"), groups.data_group, do_cache_distribution=True
    )
    with whole_parameters(models):
        dist_checkpointing.save(sharded_state(models, optimizer), str(temporary), strategy)
    if groups.is_main:
        _write_beside(temporary, recipe, progress)
    dist.barrier()
    files = _digest_together(temporary, groups)
    if groups.is_main:
        manifest.write_manifest(temporary, files)
        _move_into_place(temporary, target)
        layout.prune(recipe.run_dir, recipe.checkpoint.keep_last)
    dist.barrier()
    return target


def _write_beside(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """What a reader needs to make sense of the tensors, and a resumed run to go on."""
    manifest.write_text(folder / "recipe.yaml", dump_recipe(recipe))
    manifest.write_text(folder / "model.yaml", dump_recipe(recipe.model))
    state = {**progress.model_dump(), "versions": device.versions()}
    manifest.write_text(folder / "state.json", json.dumps(state, indent=1))
    if recipe.tokenizer:
        shutil.copytree(recipe.tokenizer, folder / "tokenizer")


def _digest_together(folder: Path, groups: Groups) -> dict[str, manifest.Entry]:
    """Every rank digests its share of the files; all get the whole."""
    # One rank lists for all: a shared file system may show the others an older state of the folder.
    names = [manifest.list_files(folder) if groups.is_main else None]
    dist.broadcast_object_list(names, src=0)
    mine = names[0][groups.rank :: groups.launch.world_size]
    shares: list[dict[str, manifest.Entry] | None] = [None] * groups.launch.world_size
    dist.all_gather_object(shares, manifest.digest_files(folder, mine))
    return {name: entry for share in shares for name, entry in (share or {}).items()}


def _move_into_place(temporary: Path, target: Path) -> None:
    temporary.rename(target)
    manifest.sync_folder(target.parent)
    manifest.write_text(target.parent / layout.LATEST, target.name + "\n")
