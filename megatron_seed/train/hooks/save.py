"""A checkpoint every so many steps and at the end."""

from __future__ import annotations

import logging

from megatron_seed.checkpoint.save import Outcome, Saver
from megatron_seed.checkpoint.state import Progress
from megatron_seed.errors import SeedError
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)


class SaveHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.saver = Saver(run.recipe, run.models, run.optimizer, run.groups, self._report)
        self._on_disk: Progress | None = None

    def start(self, progress: Progress) -> None:
        self._on_disk = progress
        self.saver.reserve()

    def after_step(self, record: StepRecord) -> None:
        self.saver.poll()
        # Not in the middle of updates that were left out: the run may have to go back to before them.
        due = record.progress.step % self.run.recipe.checkpoint.every_steps == 0
        if due and not record.progress.skips:
            self.saver.save(record.progress)

    def settle(self) -> None:
        self.saver.finish()

    def rewind(self, progress: Progress) -> None:
        self._on_disk = progress

    def finish(self, progress: Progress) -> None:
        """Raises SeedError when the run's last checkpoint cannot be written: this is what it was all for."""
        self.saver.finish()
        if progress == self._on_disk:
            return
        self.saver.save(progress)
        self.saver.finish()
        if progress != self._on_disk:
            raise SeedError(
                f"step {progress.step} could not be saved ({self._error}); make room, or repair what is wrong, and "
                "start the same command again: it goes on from the checkpoint before"
            )

    def stop(self, progress: Progress) -> None:
        if progress.skips:  # as in `after_step`
            self.saver.finish()
            say = logger.warning if self.run.groups.is_main else logger.debug
            say("step %d is not saved: the last %d updates were left out", progress.step, progress.skips)
        else:
            self.finish(progress)

    def _report(self, outcome: Outcome) -> None:
        self.run.watchdog.beat(f"the save of step {outcome.progress.step}")
        if outcome.error is None:
            self._on_disk = outcome.progress
            if self.run.groups.is_main:
                logger.info("saved %s in %.1f s", outcome.path, outcome.seconds)
                if outcome.remark:
                    logger.warning("%s", outcome.remark)
            return
        self._error = outcome.error
        then = "trying once more" if outcome.again else "going on; the next save will tell"
        self.run.recorder.event(outcome.progress.step, "save_failed", error=outcome.error, then=then)
