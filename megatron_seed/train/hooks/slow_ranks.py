"""Replicas that are slower than the others, named with their hosts in the run's record and on the console."""

from __future__ import annotations

from megatron_seed.checkpoint.state import Progress
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run
from megatron_seed.watch.slow_ranks import SlowRanks


class SlowRanksHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        self._slow_ranks = self._new_window()
        self._warm = False

    def after_step(self, record: StepRecord) -> None:
        if self.run.groups.data_size == 1:
            return
        if not self._warm:  # the first step builds kernels and fills caches
            self._warm = True
            return
        slow = self._slow_ranks.add(record.result.busy_s, self.run.groups)
        if slow:
            self.run.recorder.event(
                record.progress.step,
                "slow_ranks",
                ranks=[rank.rank for rank in slow],
                hosts=[rank.host for rank in slow],
                busy_s=[round(rank.busy_s, 4) for rank in slow],
                usual_s=[round(rank.usual_s, 4) for rank in slow],
            )

    def rewind(self, progress: Progress) -> None:
        self._slow_ranks = self._new_window()

    def _new_window(self) -> SlowRanks:
        config = self.run.recipe.watchdog
        return SlowRanks(config.slow_rank_ratio, config.slow_rank_steps)
