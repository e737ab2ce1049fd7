"""A checkpoint every so many steps and at the end."""

from __future__ import annotations

import logging
import time

from megatron_seed.checkpoint.save import save_checkpoint
from megatron_seed.checkpoint.state import Progress
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)


class SaveHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.saved_step = 0

    def start(self, progress: Progress) -> None:
        self.saved_step = progress.step

    def after_step(self, record: StepRecord) -> None:
        # Not in the middle of updates that were left out: the run may have to go back to before them.
        due = record.progress.step % self.run.recipe.checkpoint.every_steps == 0
        if due and not record.progress.skips:
            self._save(record.progress)

    def finish(self, progress: Progress) -> None:
        if progress.step != self.saved_step:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        run = self.run
        began = time.perf_counter()
        path = save_checkpoint(run.recipe, progress, run.models, run.optimizer, run.groups)
        self.saved_step = progress.step
        if run.groups.is_main:
            logger.info("saved %s in %.1f s", path, time.perf_counter() - began)
