"""Reading a checkpoint back, into any layout, after holding every file against its digest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.checkpoint.state import Progress, load_into, read_progress, sharded_state
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.optim import build as optim
from megatron_seed.optim import torch_adam
from megatron_seed.runtime.groups import Groups

logger = logging.getLogger(__name__)

# What may change in the course of a run: no tensor depends on it.
_FREE = {"max_sequence_length", "rotary_base", "init_std"}


def newest_good(run_dir: Path, groups: Groups) -> Path | None:
    """The newest checkpoint whose files are as they were written; rank 0 looks, everyone hears. None for a new run.

    Raises SeedError when there are checkpoints and none is good: going on from nothing would overwrite a run.
    """
    answer: list[Any] = [None, None]
    if groups.is_main:
        found, damaged = layout.finished(run_dir), []
        for path in reversed(found):
            damage = manifest.find_damage(path)
            if damage is None:
                answer = [path, None]
                break
            logger.warning("checkpoint %s is damaged (%s); falling back to the one before", path.name, damage)
            damaged.append(path)
        if found and answer[0] is None:
            answer[1] = f"{layout.checkpoints_dir(run_dir)}: no good checkpoint is left; to start anew, move it away"
        elif damaged:
            for path in damaged:
                layout.set_aside(path)
    dist.broadcast_object_list(answer, src=0)
    if answer[1]:
        raise SeedError(answer[1])
    return answer[0]


def check_same_model(checkpoint: Path, model: ModelConfig) -> None:
    """Raise SeedError naming what differs when a checkpoint's tensors are not those of `model`."""
    ours = model.model_dump(exclude=_FREE)
    theirs = read_model_config(checkpoint).model_dump(exclude=_FREE)
    different = [f"{name} {theirs[name]} instead of {value}" for name, value in ours.items() if theirs[name] != value]
    if different:
        raise SeedError(f"{checkpoint} is of another model ({', '.join(different)}); give the recipe its own run_dir")


def load_checkpoint(checkpoint: Path, models: Sequence[Any], optimizer: MegatronOptimizer | None = None) -> Progress:
    """Load parameters, and the optimizer's state when one is given, resharding as needed."""
    # Its `.metadata` is a pickle, and megatron-core's reader would run it: this one refuses all but known classes.
    CheckpointReader(checkpoint)
    state = sharded_state(models, optimizer, loading=True)
    loaded = dist_checkpointing.load(state, str(checkpoint))
    load_into(loaded, models, optimizer)
    if optimizer is not None:
        for part in optim.parts(optimizer):
            torch_adam.after_load(part)
    return read_progress(checkpoint)
