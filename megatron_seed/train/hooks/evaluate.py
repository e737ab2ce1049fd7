"""Held-out loss before the first step, every so many steps, and at the end."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence

import torch

from megatron_seed.checkpoint.state import Progress
from megatron_seed.data.held_out import HeldOut, held_out_of
from megatron_seed.data.loader import Batch
from megatron_seed.model.arithmetic import bits_per_byte
from megatron_seed.train import metrics
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run
from megatron_seed.train.step import evaluate

logger = logging.getLogger(__name__)
_ROUND = 8
"""Micro-batches between two looks at whether the job is to stop; a multiple of the pipeline's stages at least."""


class EvaluateHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.evaluated: set[int] = set()
        self._sources: dict[str, Sequence[HeldOut]] = {}

    def start(self, progress: Progress) -> None:
        self.evaluated = set(self.run.groups.from_main(self._recorded() if self.run.groups.is_main else None))
        if progress.step % self.run.recipe.evaluation.every_steps == 0:
            self._evaluate(progress)

    def after_step(self, record: StepRecord) -> None:
        if record.progress.step % self.run.recipe.evaluation.every_steps == 0:
            self._evaluate(record.progress)

    def rewind(self, progress: Progress) -> None:
        self.evaluated = {step for step in self.evaluated if step <= progress.step}

    def finish(self, progress: Progress) -> None:
        self._evaluate(progress)

    def _recorded(self) -> list[int]:
        """Steps whose evaluation was finished before this process began."""
        wanted = {source.name for source in self.run.recipe.evaluation.held_out}
        rows = [row for row in metrics.read(self.run.recipe.run_dir) if row["kind"] == "evaluation"]
        return [
            step
            for step in {row["step"] for row in rows}
            if wanted <= {row["source"] for row in rows if row["step"] == step}
        ]

    def _evaluate(self, progress: Progress) -> None:
        """Of every source, unless that is done already or the job is told to stop before the end."""
        if progress.step in self.evaluated:
            return
        rows = []
        for source in self._held_out(progress):
            sums = self._sums(source)
            if sums is None:
                return
            if self.run.groups.is_main:
                rows.append(_row(source, progress, *sums.tolist()))
        for row in rows:
            self.run.recorder.write(row)
        if rows:
            logger.info("step %d, held out: %s", progress.step, "  ".join(map(_told, rows)))
        self.evaluated.add(progress.step)

    def _held_out(self, progress: Progress) -> Sequence[HeldOut]:
        """In sequences of the phase's length."""
        recipe = self.run.recipe
        phase = next((phase for phase in recipe.phases if phase.name == progress.phase), recipe.phases[0])
        if phase.name not in self._sources:
            self._sources[phase.name] = held_out_of(recipe, phase)
        return self._sources[phase.name]

    def _sums(self, source: HeldOut) -> torch.Tensor | None:
        """[2]: summed loss and number of tokens; None when the job is to stop."""
        run, size = self.run, self.run.recipe.evaluation.micro_batch_size
        batches = source.micro_batches(size, run.groups.data_rank, run.groups.data_size)
        sums = torch.zeros(2, dtype=torch.float64)
        while chunk := list(itertools.islice(batches, self._round())):
            sums += evaluate(run.models, [*chunk, *self._padding(chunk)], run.groups)
            run.watchdog.beat(f"an evaluation batch of {source.name}")
            run.stop.poll()
            if run.stop.reason:
                return None
        return sums

    def _round(self) -> int:
        stages = self.run.groups.pipeline_size
        return -(-_ROUND // stages) * stages

    def _padding(self, chunk: Sequence[Batch]) -> Iterator[Batch]:
        """Batches that count nothing, so that an interleaved pipeline has a multiple of its stages."""
        for _ in range(-len(chunk) % self.run.groups.pipeline_size if len(self.run.models) > 1 else 0):
            yield {**chunk[-1], "loss_mask": torch.zeros_like(chunk[-1]["loss_mask"])}


def _told(row: metrics.Row) -> str:
    per_byte = f" ({row['bits_per_byte']:.3f} bits per byte)" if "bits_per_byte" in row else ""
    return f"{row['source']} {row['loss']:.3f}{per_byte}"


def _row(source: HeldOut, progress: Progress, loss: float, tokens: float) -> metrics.Row:
    mean = loss / tokens if tokens else math.nan
    row = {
        "kind": "evaluation",
        "step": progress.step,
        "tokens": progress.consumed_tokens,
        "source": source.name,
        "loss": mean,
    }
    if source.bytes_per_token:
        row["bits_per_byte"] = bits_per_byte(mean, source.bytes_per_token)
    return row
