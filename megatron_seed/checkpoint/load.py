"""Reading a checkpoint back, into any layout, after holding every file against its digest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.generators import restore_generators
from megatron_seed.checkpoint.megatron_lm import MegatronLmCheckpoint
from megatron_seed.checkpoint.pickles import check_extra_state, read_common
from megatron_seed.checkpoint.pieces import ExtraState, Piece, holding, set_optimizer_step
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.checkpoint.state import Progress, read_progress
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.optim import build as optim
from megatron_seed.runtime.groups import Groups

logger = logging.getLogger(__name__)

Reader = CheckpointReader | MegatronLmCheckpoint
# What may change in the course of a run: no tensor depends on it.
_FREE = {"max_sequence_length", "rotary_base", "rope_scaling", "init_std"}
# Optimizers without fp32 copies of their own save none, and megatron-core's others name theirs differently.
_PARAM, _OTHER_PARAM = "optimizer.state.param.", "optimizer.state.fp32_param."


def newest_good(run_dir: Path, groups: Groups) -> Path | None:
    """The newest checkpoint whose files are as they were written; None for a new run. All ranks share the reading.

    Raises SeedError when there are checkpoints and none is good: going on from nothing would overwrite a run.
    """
    damaged: list[Path] = []
    found = groups.from_main(layout.all_of(run_dir))
    for path in reversed(found):
        damage = find_damage_together(path, groups)
        if damage is None:
            if groups.is_main:
                for bad in damaged:
                    layout.set_aside(bad)
            return path
        damaged.append(path)
        if groups.is_main:
            logger.warning("checkpoint %s is damaged (%s); falling back to the one before", path.name, damage)
    if found:
        raise SeedError(f"{layout.checkpoints_dir(run_dir)}: no good checkpoint is left; to start anew, move it away")
    return None


def find_damage_together(checkpoint: Path, groups: Groups) -> str | None:
    """What is wrong with a checkpoint, None for a good one; each rank digests a share of its files."""
    expected, problem = groups.from_main(_expected(checkpoint) if groups.is_main else None)
    if problem:
        return problem
    # The largest first, so that the shares come out even.
    names = sorted(expected, key=lambda name: (-int(expected[name]["size_bytes"]), name))
    mine = {name: expected[name] for name in names[groups.rank :: groups.launch.world_size]}
    found = groups.gather(next(manifest.damages(checkpoint, mine), None))
    return next((damage for damage in found if damage), None)


def _expected(checkpoint: Path) -> tuple[dict[str, manifest.Entry], str | None]:
    try:
        return manifest.read_manifest(checkpoint), None
    except ValueError as error:
        return {}, str(error)


def check_same_model(checkpoint: Path, model: ModelConfig, backbone: bool = False) -> None:
    """Raise SeedError naming what differs when a checkpoint's tensors (`backbone`: but its head's) are not those of
    `model`."""
    free = {*_FREE, "head"} if backbone else _FREE
    ours = model.model_dump(exclude=free)
    theirs = read_model_config(checkpoint).model_dump(exclude=free)
    different = [f"{name} {theirs[name]} instead of {value}" for name, value in ours.items() if theirs[name] != value]
    if different:
        raise SeedError(f"{checkpoint} is of another model ({', '.join(different)}); give the recipe its own run_dir")


def load_checkpoint(
    checkpoint: Path, models: Sequence[Any], optimizer: MegatronOptimizer | None = None, without: Sequence[str] = ()
) -> Progress:
    """Load parameters, and the optimizer's state when one is given, resharding as needed; nothing of it is executed.

    Parameters whose names begin with one of `without` are left as they are. Raises SeedError for tensors that are
    missing, of another shape, or damaged.
    """
    reader = CheckpointReader(checkpoint)
    load_state(reader, models, optimizer, without)
    if reader.generators:
        restore_generators(reader)
    return read_progress(checkpoint)


def load_megatron_lm(
    checkpoint: MegatronLmCheckpoint,
    models: Sequence[Any],
    optimizer: MegatronOptimizer | None,
    without: Sequence[str] = (),
) -> Progress:
    """As load_checkpoint, from a checkpoint of Megatron-LM."""
    if optimizer is not None:
        checkpoint.check_optimizer()
    load_state(checkpoint, models, optimizer, without)
    return checkpoint.progress


def load_state(
    reader: Reader, models: Sequence[Any], optimizer: MegatronOptimizer | None, without: Sequence[str] = ()
) -> None:
    """Fill models and optimizer in place, but for parameters whose names begin with one of `without`."""
    held = holding(models, optimizer)
    if optimizer is not None and not reader.optimizer_tensors:
        raise SeedError(f"{reader.path} holds no optimizer state; start_from.load=weights goes without")
    for piece in held.pieces:
        if not piece.key.startswith(tuple(without)):
            _fill(piece, reader)
    if optimizer is not None:
        step = read_step(reader.path, read_common(reader.path / "common.pt"))
        for part in optim.parts(optimizer):
            set_optimizer_step(part, step)
    _load_extra_states(held.extra_states, reader)


@torch.no_grad()
def _fill(piece: Piece, reader: Reader) -> None:
    key = _stored_key(piece.key, reader)
    shape = reader.info(key).shape
    if shape != piece.shape:
        raise SeedError(f"{reader.path}: {key} is {list(shape)}, the model has {list(piece.shape)}")
    piece.tensor.copy_(reader.read_slice(key, piece.offsets, tuple(piece.tensor.shape)))


def _stored_key(key: str, reader: Reader) -> str:
    """The name under which a checkpoint has a piece, or the parameter itself for the optimizer's copy of it."""
    if not key.startswith(_PARAM):
        return key
    parameter = key.removeprefix(_PARAM)
    return next((name for name in (key, _OTHER_PARAM + parameter) if reader.has(name)), parameter)


def read_step(checkpoint: Path, common: Mapping[str, Any]) -> int:
    """Updates that the optimizer has done, from the common state of any of megatron-core's optimizers."""
    state = common.get("optimizer", {})
    state = state.get("optimizer", state) if isinstance(state, dict) else {}
    steps = {int(group["step"]) for group in state.get("param_groups", ()) if group.get("step") is not None}
    if not steps and state.get("state", {}).get("common_step") is not None:
        steps = {int(state["state"]["common_step"])}
    if len(steps) != 1:
        raise SeedError(
            f"{checkpoint / 'common.pt'}: the optimizer's number of updates is {sorted(steps) or 'missing'}"
        )
    return steps.pop()


def _load_extra_states(held: Sequence[ExtraState], reader: Reader) -> None:
    """TransformerEngine's modules have some; it holds something with delayed FP8 scaling alone."""
    for extra in held:
        if extra.key in reader.objects:
            (state,) = reader.read_object(extra.key)
            check_extra_state(f"{reader.path}: {extra.key}", state)
            if state is not None:
                extra.module.set_extra_state(state)
