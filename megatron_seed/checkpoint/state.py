"""Where a run stands, as every checkpoint tells it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from megatron_seed.data.blend import BlendMemo
from megatron_seed.data.cursor import Cursor
from megatron_seed.errors import SeedError


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
        """Sources go on from `cursors`, in an order of their own; what losses are usual there is to be seen."""
        jumps = tuple(jump for jump in self.jumps if jump.phase != self.phase)
        new = {"cursors": cursors, "segment_samples": 0, "blend": None, "jumps": jumps, "skips": 0, "recent_losses": ()}
        return self.model_copy(update=new)


def read_progress(checkpoint: Path) -> Progress:
    path = checkpoint / "state.json"
    try:
        return Progress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SeedError(f"{path}: cannot be read: {error}") from error
