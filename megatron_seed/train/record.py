"""Where a run's numbers go: metrics.jsonl, TensorBoard and wandb, written by rank 0."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, Protocol

from megatron_seed.config.schema import Recipe
from megatron_seed.train import metrics

logger = logging.getLogger(__name__)
Row = dict[str, Any]


class Sink(Protocol):
    def write(self, row: Row) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Writes rows to every sink the recipe asks for; on the other ranks it does nothing."""

    def __init__(self, recipe: Recipe, step: int, active: bool) -> None:
        self.sinks: list[Sink] = []
        if active:
            metrics.rewind(recipe.run_dir, step)
            self.sinks = [_Metrics(recipe.run_dir), *_tensorboard(recipe, step), *_wandb(recipe)]

    def write(self, row: Row) -> None:
        """A row has `kind`, `step` and numbers."""
        for sink in self.sinks:
            sink.write(row)

    def note(self, row: Row) -> None:
        """A row for metrics.jsonl alone."""
        for sink in self.sinks[:1]:
            sink.write(row)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


def _scalars(row: Row) -> dict[str, float]:
    """Numbers of a row under names such as `train/loss` and `evaluation/held_out/loss`."""
    place = f"{row['kind']}/{row['source']}" if "source" in row else row["kind"]
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
    return {f"{place}/{name}": float(value) for name, value in numbers.items()}


class _Metrics:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def write(self, row: Row) -> None:
        metrics.write(self.run_dir, row)

    def close(self) -> None:
        """Each row is written out at once."""


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events after the step that the run resumed from are about to be written again.
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, row: Row) -> None:
        for name, value in _scalars(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, recipe: Recipe) -> None:
        import wandb

        self.run = wandb.init(
            project=recipe.logging.wandb_project,
            name=recipe.name,
            # The same run after every restart.
            id=hashlib.sha256(str(recipe.run_dir.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(recipe.run_dir),
            mode=recipe.logging.wandb,
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, row: Row) -> None:
        self.run.log(_scalars(row), step=row["step"])

    def close(self) -> None:
        self.run.finish()


def _tensorboard(recipe: Recipe, step: int) -> list[Sink]:
    return [_TensorBoard(recipe.run_dir / "events", step)] if recipe.logging.tensorboard else []


def _wandb(recipe: Recipe) -> list[Sink]:
    """A run without wandb is better than no run: what keeps it from starting is logged."""
    if recipe.logging.wandb == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return []
    try:
        return [_Wandb(recipe)]
    except Exception as error:  # wandb raises errors of its own and of its service
        logger.warning("wandb did not start, going on without it: %s", error)
        return []
