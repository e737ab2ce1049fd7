"""What happens around steps: logging, evaluation, saving. A hook sees records and never steers the loop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from megatron_seed.checkpoint.state import Progress
from megatron_seed.train.guard import StepResult


@dataclass(frozen=True)
class StepRecord:
    """One finished step."""

    progress: Progress
    """After the step."""
    result: StepResult
    learning_rate: float
    seconds: float
    """All of the step, without the hooks."""
    data_s: float
    """Of these, waiting for data and for the ranks that wait for theirs."""
    tokens: int


class Hook:
    """Called on every rank, in the order of the list."""

    spent_s: float = 0.0
    """Time that the training waited for this hook."""

    def start(self, progress: Progress) -> None:
        """Before the first step of this process."""

    def after_step(self, record: StepRecord) -> None:
        """After every step."""

    def settle(self) -> None:
        """Have everything on disk: the run is about to go back to a checkpoint."""

    def rewind(self, progress: Progress) -> None:
        """The run went back to here."""

    def finish(self, progress: Progress) -> None:
        """After the last step of the last phase."""

    def stop(self, progress: Progress) -> None:
        """The run ends early, to be gone on with later."""

    def close(self) -> None:
        """Last of all, also when the run ends with an error."""

    def timed_after_step(self, record: StepRecord) -> None:
        began = time.perf_counter()
        self.after_step(record)
        self.spent_s += time.perf_counter() - began
