"""What happens around steps: logging, evaluation, saving. A hook sees records and never steers the loop."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_seed.checkpoint.state import Progress
from megatron_seed.train.step import StepResult


@dataclass(frozen=True)
class StepRecord:
    """One finished step."""

    progress: Progress
    """After the step."""
    result: StepResult
    learning_rate: float
    seconds: float
    tokens: int


class Hook:
    """Called on every rank, in the order of the list."""

    def start(self, progress: Progress) -> None:
        """Before the first step of this process."""

    def after_step(self, record: StepRecord) -> None:
        """After every step."""

    def finish(self, progress: Progress) -> None:
        """After the last step of the last phase."""
