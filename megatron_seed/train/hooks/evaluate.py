"""Held-out loss before the first step, every so many steps, and at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_seed.checkpoint.state import Progress
from megatron_seed.data.held_out import HeldOut
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run
from megatron_seed.train.step import evaluate


class EvaluateHook(Hook):
    def __init__(self, run: Run, held_out: Sequence[HeldOut]) -> None:
        self.run = run
        self.held_out = held_out
        self.evaluated_step = 0

    def start(self, progress: Progress) -> None:
        self.evaluated_step = progress.step
        if progress.step == 0:
            self._evaluate(progress)

    def after_step(self, record: StepRecord) -> None:
        if record.progress.step % self.run.recipe.evaluation.every_steps == 0:
            self._evaluate(record.progress)

    def finish(self, progress: Progress) -> None:
        if progress.step != self.evaluated_step:
            self._evaluate(progress)

    def _evaluate(self, progress: Progress) -> None:
        self.evaluated_step = progress.step
        run, size = self.run, self.run.recipe.evaluation.micro_batch_size
        for source in self.held_out:
            batches = source.micro_batches(size, run.groups.data_rank, run.groups.data_size)
            rounds = source.batches(size, run.groups.data_size)
            loss = evaluate(run.models, batches, rounds, run.groups)
            row = {
                "kind": "evaluation",
                "step": progress.step,
                "tokens": progress.consumed_tokens,
                "source": source.name,
                "loss": loss,
            }
            if source.bytes_per_token:
                row["bits_per_byte"] = loss / math.log(2) / source.bytes_per_token
            run.recorder.write(row)
