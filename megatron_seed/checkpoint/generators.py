"""The random generators of every rank, as tensors of a row per rank.

Training draws from none of them as long as nothing drops out: data and initial parameters have generators of their own,
keyed by name. They are kept so that what may draw one day goes on where it stood.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_seed.checkpoint.pieces import Piece
from megatron_seed.checkpoint.reader import GENERATOR_PREFIX, CheckpointReader
from megatron_seed.runtime import device


def generator_pieces() -> list[Piece]:
    """This rank's row of each."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return [
        Piece(f"{GENERATOR_PREFIX}{name}", (world_size, state.numel()), (rank, 0), state.view(1, -1))
        for name, state in _states().items()
    ]


def restore_generators(reader: CheckpointReader) -> bool:
    """Set this rank's generators. False, and nothing done, where the checkpoint was written by another number of ranks
    or on another kind of device: they keep their seeds then."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    ours = {f"{GENERATOR_PREFIX}{name}": (world_size, state.numel()) for name, state in _states().items()}
    theirs = {key: info.shape for key, info in reader.generators.items()}
    if ours != theirs:
        return False
    loaded = {key: reader.read_slice(key, (rank, 0), (1, shape[1]))[0].clone() for key, shape in ours.items()}
    tracker = _tracker()
    named = {name: loaded[f"{GENERATOR_PREFIX}{name}"] for name in tracker.get_states()}
    tracker.set_states({**tracker.get_states(), **named})
    torch.set_rng_state(loaded[f"{GENERATOR_PREFIX}cpu"])
    if device.has_gpu():
        torch.cuda.set_rng_state(loaded[f"{GENERATOR_PREFIX}cuda"])
    return True


def _states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state(), **_tracker().get_states()}
    if device.has_gpu():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.cpu() for name, state in states.items()}


def _tracker():
    """megatron-core's named generators, which differ between model-parallel ranks."""
    from megatron.core import tensor_parallel

    return tensor_parallel.get_cuda_rng_tracker()
