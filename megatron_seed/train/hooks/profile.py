"""A trace of a few steps, on the ranks the recipe names."""

from __future__ import annotations

import logging

import torch

from megatron_seed.checkpoint.state import Progress
from megatron_seed.runtime import device
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)


class ProfileHook(Hook):
    def __init__(self, run: Run) -> None:
        self.run = run
        config = run.recipe.profile
        self.steps = config.steps if run.groups.rank in config.ranks else None
        self.profiler: torch.profiler.profile | None = None

    def start(self, progress: Progress) -> None:
        self._begin_before(progress.step + 1)

    def after_step(self, record: StepRecord) -> None:
        step = record.progress.step
        if self.profiler is not None and step == self.steps[1]:
            self._write()
        self._begin_before(step + 1)

    def finish(self, progress: Progress) -> None:
        if self.profiler is not None:
            self._write()

    stop = finish

    def _begin_before(self, step: int) -> None:
        if self.steps is not None and self.profiler is None and self.steps[0] == step:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if device.has_gpu():
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self.profiler = torch.profiler.profile(activities=kinds, profile_memory=True)
            self.profiler.start()

    def _write(self) -> None:
        self.profiler.stop()
        folder = self.run.recipe.run_dir / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"steps-{self.steps[0]}-{self.steps[1]}-rank-{self.run.groups.rank}.json.gz"
        self.profiler.export_chrome_trace(str(path))
        self.profiler = None
        logger.info("profile written: %s", path)
