"""Saving while training goes on: it waits for a private copy, and threads write, digest and move it into place.

Threads only write files. What ranks must agree on, they agree on in `poll`, which every rank calls at the same step: no
collective runs beside those of training.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.generators import generator_pieces
from megatron_seed.checkpoint.pieces import Holding, Piece, holding, optimizer_step, share_of
from megatron_seed.checkpoint.state import Progress
from megatron_seed.checkpoint.table import Record, write_table
from megatron_seed.checkpoint.write import (
    CONTENT,
    Share,
    Staging,
    Written,
    as_bytes,
    check_files,
    move_into_place,
    write_beside,
    write_share,
)
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError
from megatron_seed.optim import build as optim
from megatron_seed.optim.build import whole_parameters
from megatron_seed.runtime.groups import Groups
from megatron_seed.runtime.priority import lower_priority

ATTEMPTS = 2


@dataclass(frozen=True)
class Outcome:
    """How an attempt to save ended."""

    progress: Progress
    path: Path
    seconds: float
    """Since the save was asked for."""
    error: str | None = None
    """What went wrong, and where."""
    again: bool = False
    """It will be tried once more at once, from the same copy."""
    remark: str | None = None
    """What a person should know although the checkpoint is saved."""


@dataclass
class _Save:
    """A save under way."""

    progress: Progress
    share: Share
    common: Mapping[str, Any]
    began: float
    attempt: int
    job: _Job
    moving: bool = False
    """All ranks have written; rank 0 completes the folder and moves it into place."""


class Saver:
    """Saves a run, one checkpoint at a time. Every method is called by all ranks at the same step."""

    def __init__(
        self,
        recipe: Recipe,
        models: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        groups: Groups,
        report: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.recipe = recipe
        self.models = models
        self.optimizer = optimizer
        self.groups = groups
        self.report = report
        self.saved: Progress | None = None
        """Of the newest checkpoint that this saver brought to disk."""
        self._staging = Staging()
        self._save: _Save | None = None

    def reserve(self) -> None:
        """Take the memory that a save needs; call it before the first step."""
        if self.recipe.checkpoint.asynchronous:
            self._staging.reserve(self._pieces(holding(self.models, self.optimizer)))

    def save(self, progress: Progress) -> None:
        """Begin a save, after the one under way. When it returns, training may change what is being saved."""
        self.finish()
        began = time.perf_counter()
        background = self.recipe.checkpoint.asynchronous
        with whole_parameters(self.models):
            self._save = _Save(progress, self._share(background), self._common(), began, 1, _nothing())
            self._begin()
            if not background:
                self.finish()

    def poll(self) -> None:
        """Take a save that is under way as far as it has come on all ranks; call it at every step."""
        save = self._save
        if save is None:
            return
        done, errors = self._agree(save.job)
        if not done:
            return
        if errors:
            self._failed(save, errors)
        elif save.moving:
            self._save, self.saved = None, save.progress
            self.report(self._outcome(save, remark=save.job.result))
        else:
            save.moving = True
            save.job = self._moving(save)

    def finish(self) -> None:
        """Wait until the save under way is on disk, or has failed for good."""
        while self._save is not None:
            self._save.job.wait()
            self.poll()

    def _pieces(self, held: Holding) -> list[Piece]:
        """Those that this rank writes."""
        rank, replicas = dist.get_rank(self.groups.data_group), dist.get_world_size(self.groups.data_group)
        return [*share_of(held.pieces, rank, replicas), *generator_pieces()]

    def _share(self, private: bool) -> Share:
        """What this rank writes; a private copy, unless it is written at once."""
        held = holding(self.models, self.optimizer)
        pieces = self._pieces(held)
        objects = {extra.key: as_bytes([extra.value]) for extra in held.extra_states if not extra.spare}
        return Share(self._staging.copy(pieces) if private else pieces, objects)

    def _common(self) -> dict[str, Any]:
        """What is the same on every rank, in the form in which megatron-core's optimizer keeps it."""
        groups = [
            {**{name: value for name, value in group.items() if name != "params"}, "step": optimizer_step(part)}
            for part in optim.parts(self.optimizer)
            for group in part.optimizer.param_groups
        ]
        state = {"optimizer": {"param_groups": groups}, "param_state_sharding_type": "fully_reshardable"}
        return {"optimizer": state, "content_metadata": CONTENT}

    def _begin(self) -> None:
        """Write what this rank holds, into a new folder."""
        save, folder = self._save, self._folder
        error = self._make_folder() if self.groups.is_main else None
        self.groups.from_main(None)  # not before the folder is there

        def work() -> Written:
            if error is not None:
                raise error
            return write_share(folder, self.groups.rank, save.share)

        save.job = _Job(work, self.recipe.checkpoint.asynchronous)

    def _make_folder(self) -> OSError | None:
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        except OSError as error:
            return error
        return None

    def _moving(self, save: _Save) -> _Job:
        """Rank 0's part, once all have written."""
        shares: list[Written] | None = self.groups.gather_at_main(save.job.result)
        if shares is None:
            return _nothing()
        folder, target, recipe = self._folder, self._target(save.progress), self.recipe

        def work() -> str | None:
            records: list[Record] = [record for share in shares for record in share.records]
            files = {name: entry for share in shares for name, entry in share.files.items()}
            files |= write_beside(folder, recipe, save.progress, save.common)
            files |= write_table(folder, records)
            check_files(folder, files)
            manifest.write_manifest(folder, files)
            move_into_place(folder, target, layout.LATEST)
            try:
                layout.prune(recipe.run_dir, recipe.checkpoint.keep_last, recipe.checkpoint.keep_every_steps)
            except OSError as error:
                return f"older checkpoints could not be removed: {_in_one_line(error)}"
            return None

        return _Job(work, recipe.checkpoint.asynchronous)

    def _agree(self, job: _Job) -> tuple[bool, list[str]]:
        """Whether every rank's part is done, and what went wrong in it anywhere."""
        waiting, broken = self.groups.largest(not job.done, job.error is not None)
        if waiting or not broken:
            return not waiting, []
        errors = self.groups.gather(None if job.error is None else _in_one_line(job.error))
        return True, [f"rank {rank}: {error}" for rank, error in enumerate(errors) if error]

    def _failed(self, save: _Save, errors: Sequence[str]) -> None:
        """Clean up and try once more; after that, training goes on without this checkpoint."""
        if self.groups.is_main:
            shutil.rmtree(self._folder, ignore_errors=True)
        again = save.attempt < ATTEMPTS
        self.report(self._outcome(save, errors[0], again))
        if not again:
            self._save = None
            return
        save.attempt += 1
        save.moving = False
        self._begin()

    def _outcome(
        self, save: _Save, error: str | None = None, again: bool = False, remark: str | None = None
    ) -> Outcome:
        seconds = time.perf_counter() - save.began
        return Outcome(save.progress, self._target(save.progress), seconds, error, again, remark)

    def _target(self, progress: Progress) -> Path:
        return layout.step_dir(self.recipe.run_dir, progress.step)

    @property
    def _folder(self) -> Path:
        """Where the save under way is written."""
        target = self._target(self._save.progress)
        return target.with_name(f".{target.name}.tmp")


class _Job:
    """Work that ends in a result or an error, in a thread or at once."""

    def __init__(self, work: Callable[[], Any], background: bool) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run_behind, name="save") if background else None
        if self._thread:
            self._thread.start()
        else:
            self._run()

    @property
    def done(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        if self._thread:
            self._thread.join()

    def _run_behind(self) -> None:
        lower_priority()
        self._run()

    def _run(self) -> None:
        try:
            self.result = self.work()
        except Exception as error:  # whatever it is, the other ranks must hear of it
            self.error = error


def _nothing() -> _Job:
    return _Job(lambda: None, background=False)


def save_checkpoint(
    recipe: Recipe,
    progress: Progress,
    models: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    groups: Groups,
) -> Path:
    """Save once and wait for it. Returns the finished folder; raises SeedError where it cannot be written."""
    outcomes: list[Outcome] = []
    saver = Saver(recipe, models, optimizer, groups, outcomes.append)
    saver.save(progress)
    saver.finish()
    if outcomes[-1].error:
        raise SeedError(f"{outcomes[-1].path}: cannot be saved: {outcomes[-1].error}")
    return outcomes[-1].path


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
