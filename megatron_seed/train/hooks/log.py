"""Numbers of the run to metrics.jsonl, TensorBoard, wandb and the console; from rank 0 only."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_seed.checkpoint import state
from megatron_seed.runtime import device
from megatron_seed.train import metrics
from megatron_seed.train.hooks import Hook, StepRecord

if TYPE_CHECKING:
    from megatron_seed.config.schema import Recipe
    from megatron_seed.train.run import Run

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class LogHook(Hook):
    """Evaluations and saves log themselves; this one logs steps."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.active = run.groups.is_main
        self.tokens = 0
        self.seconds = 0.0

    def start(self, progress: state.Progress) -> None:
        if not self.active:
            return
        recipe = self.run.recipe
        metrics.rewind(recipe.run_dir, progress.step)
        self.console = _ConsoleLine(sum(phase.steps for phase in recipe.phases), progress.step)
        self.sinks = [sink for sink in (_tensorboard(recipe, progress.step), _wandb(recipe)) if sink]

    def after_step(self, record: StepRecord) -> None:
        if not self.active:
            return
        self.tokens += record.tokens
        self.seconds += record.seconds
        if record.progress.step % self.run.recipe.logging.every_steps:
            return
        row = self._row(record)
        self.tokens, self.seconds = 0, 0.0
        metrics.write(self.run.recipe.run_dir, row)
        for sink in self.sinks:
            sink.write(row)
        self.console.update(row)

    def finish(self, progress: state.Progress) -> None:
        if self.active:
            self.console.close()
            for sink in self.sinks:
                sink.close()

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


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events after the step that the run resumed from are about to be written again.
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, recipe: Recipe) -> None:
        import wandb

        mode = "online" if recipe.logging.wandb == "online" else "offline"
        self.run = wandb.init(
            project=recipe.logging.wandb_project,
            name=recipe.name,
            dir=str(recipe.run_dir),
            mode=mode,
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, row: dict[str, Any]) -> None:
        values = {f"{row['kind']}/{name}": value for name, value in row.items() if isinstance(value, int | float)}
        self.run.log(values, step=row["step"])

    def close(self) -> None:
        self.run.finish()


def _tensorboard(recipe: Recipe, step: int) -> _TensorBoard | None:
    return _TensorBoard(recipe.run_dir / "events", step) if recipe.logging.tensorboard else None


def _wandb(recipe: Recipe) -> _Wandb | None:
    """A run without wandb is better than no run: what keeps it from starting is logged."""
    if recipe.logging.wandb == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        return _Wandb(recipe)
    except Exception as error:  # wandb raises errors of its own and of its service
        logger.warning("wandb did not start, going on without it: %s", error)
        return None
