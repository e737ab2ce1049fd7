"""The numbers of every step, to the run's record and the console; from rank 0 only."""

from __future__ import annotations

import logging
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_seed.checkpoint import state
from megatron_seed.runtime import device
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class LogHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.tokens = 0
        self.seconds = 0.0
        self.console: _ConsoleLine | None = None

    def start(self, progress: state.Progress) -> None:
        if self.run.groups.is_main:
            self.console = _ConsoleLine(sum(phase.steps for phase in self.run.recipe.phases), progress.step)

    def after_step(self, record: StepRecord) -> None:
        self.tokens += record.tokens
        self.seconds += record.seconds
        if self.console is None or record.progress.step % self.run.recipe.logging.every_steps:
            return
        row = self._row(record)
        self.tokens, self.seconds = 0, 0.0
        self.run.recorder.write(row)
        self.console.update(row)

    def finish(self, progress: state.Progress) -> None:
        if self.console:
            self.console.close()

    def _row(self, record: StepRecord) -> dict[str, Any]:
        return {
            "kind": "train",
            "step": record.progress.step,
            "tokens": record.progress.consumed_tokens,
            "phase": record.progress.phase,
            "loss": record.result.loss,
            "learning_rate": record.learning_rate,
            "grad_norm": record.result.grad_norm,
            "step_seconds": record.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "peak_memory_bytes": device.peak_memory_bytes(),
            "skipped": not record.result.applied,
        }


class _ConsoleLine:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, steps: int, done: int) -> None:
        console = Console(stderr=True)
        self.steps = steps
        self.last_line = 0.0
        self.bar = None
        if console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.description}"), console=console)
            self.task = self.bar.add_task("", total=steps, completed=done)
            self.bar.start()

    def update(self, row: dict[str, Any]) -> None:
        numbers = f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s  rate {row['learning_rate']:.2e}"
        if self.bar:
            self.bar.update(self.task, completed=row["step"], description=numbers)
        elif time.monotonic() - self.last_line > _LINE_EVERY_S:
            self.last_line = time.monotonic()
            logger.info("step %d/%d  %s", row["step"], self.steps, numbers)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
