"""A trace of a few steps, on the ranks the recipe names."""

from __future__ import annotations

import logging

import torch

from megatron_seed.checkpoint.state import Progress
from megatron_seed.errors import SeedError
from megatron_seed.runtime import device
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)


class ProfileHook(Hook):
    def __init__(self, run: Run) -> None:
        """Raises SeedError for a rank that the job does not have."""
        self.run = run
        config, world_size = run.recipe.profile, run.groups.launch.world_size
        absent = [rank for rank in config.ranks if rank >= world_size]
        if config.steps and absent:
            raise SeedError(f"profile.ranks names rank {absent[0]}; this job has ranks 0 to {world_size - 1}")
        self.steps = config.steps if run.groups.rank in config.ranks else None
        self.profiler: torch.profiler.profile | None = None
        self.first = 0
        """Step that the trace begins with; a run may go on from the middle of those asked for."""

    def start(self, progress: Progress) -> None:
        if self.steps is not None and progress.step >= self.steps[1]:
            logger.warning("no profile: step %d is done, steps %d to %d will not come", progress.step, *self.steps)
        self._begin_before(progress.step + 1)

    def after_step(self, record: StepRecord) -> None:
        step = record.progress.step
        if self.profiler is not None and step == self.steps[1]:
            self._write(step)
        self._begin_before(step + 1)

    def finish(self, progress: Progress) -> None:
        if self.profiler is not None:
            self._write(progress.step)

    stop = finish

    def _begin_before(self, step: int) -> None:
        if self.steps is None or self.profiler is not None or not self.steps[0] <= step <= self.steps[1]:
            return
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device.has_gpu():
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self.first = step
        self.profiler = torch.profiler.profile(activities=kinds, profile_memory=True)
        self.profiler.start()

    def _write(self, last: int) -> None:
        self.profiler.stop()
        folder = self.run.recipe.run_dir / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"steps-{self.first}-{last}-rank-{self.run.groups.rank}.json.gz"
        self.profiler.export_chrome_trace(str(path))
        self.profiler = None
        logger.info("profile written: %s", path)
