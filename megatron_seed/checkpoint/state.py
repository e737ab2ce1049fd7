"""What a checkpoint holds: megatron-core's sharded state of model and optimizer, and where the run stood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from pydantic import BaseModel, ConfigDict

from megatron_seed.data.blend import BlendMemo
from megatron_seed.data.cursor import Cursor
from megatron_seed.errors import SeedError

# Optimizer state in the parameters' own shapes, so that any layout can load it.
_METADATA = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


class Jump(BaseModel):
    """Samples [first, stop) of a phase's segment."""

    model_config = ConfigDict(frozen=True)

    phase: str
    first: int
    stop: int


class Progress(BaseModel):
    """Where a run stands between two steps.

    A segment is a stretch of a phase with one blend and one sequence length; a phase is one, unless its recipe was
    changed on the way. Samples are counted within the segment, so that its order is a function of where it began.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int = 0
    """Optimizer steps done."""
    consumed_tokens: int = 0
    phase: str = ""
    """Phase that the last step belonged to."""
    phase_tokens: int = 0
    """Tokens of that phase consumed."""
    segment_samples: int = 0
    """Samples of the segment consumed."""
    cursors: dict[str, Cursor] = {}
    """Where the segment found each source."""
    blend: BlendMemo | None = None
    """The blend's counts at `segment_samples`."""
    jumps: tuple[Jump, ...] = ()
    """Samples that the run leaves out, for they could not be trained on."""
    recent_losses: tuple[float, ...] = ()
    """Of the last applied steps; the next loss is held against them."""
    skips: int = 0
    """Updates left out in a row, up to now."""
    first_skipped: int = 0
    """Sample at which these began."""
    parent: str | None = None
    """Checkpoint of another run that this one began with."""

    def new_segment(self, cursors: dict[str, Cursor]) -> Progress:
        """Sources go on from `cursors`, in an order of their own."""
        jumps = tuple(jump for jump in self.jumps if jump.phase != self.phase)
        new = {"cursors": cursors, "segment_samples": 0, "blend": None, "jumps": jumps, "skips": 0}
        return self.model_copy(update=new)


def read_progress(checkpoint: Path) -> Progress:
    path = checkpoint / "state.json"
    try:
        return Progress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SeedError(f"{path}: cannot be read: {error}") from error


def sharded_state(
    models: Sequence[DistributedDataParallel | Any], optimizer: MegatronOptimizer | None, *, loading: bool = False
) -> dict[str, Any]:
    """The nested state that megatron-core saves and loads; without an optimizer only the parameters."""
    parameters = {
        _model_key(number, len(models)): _unwrap(model).sharded_state_dict(metadata=dict(_METADATA))
        for number, model in enumerate(models)
    }
    state = dict(parameters)
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(parameters, is_loading=loading, metadata=dict(_METADATA))
    return state


def load_into(
    state: dict[str, Any], models: Sequence[DistributedDataParallel | Any], optimizer: MegatronOptimizer | None
) -> None:
    """Put a loaded state where it belongs."""
    for number, model in enumerate(models):
        _unwrap(model).load_state_dict(state[_model_key(number, len(models))])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])


def _unwrap(model: Any) -> Any:
    """Names in a checkpoint are the model's own, without the data-parallel wrapper's `module.`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _model_key(number: int, chunks: int) -> str:
    return "model" if chunks == 1 else f"model{number}"
