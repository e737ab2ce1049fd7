"""Replicas that should be equal, held against each other: what differs without an error is named by rank."""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Mapping

import torch

from megatron_seed.checkpoint.state import Progress
from megatron_seed.errors import SeedError
from megatron_seed.optim.build import whole_parameters
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.state import Run

Digests = dict[str, int]
"""Of each parameter under a name that only equal ones share."""


class ReplicasHook(Hook):
    """Every so many steps and before every save, also the last one."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._every = run.recipe.guard.compare_replicas_every_steps if run.groups.launch.world_size > 1 else 0
        self._compared: int | None = None

    def after_step(self, record: StepRecord) -> None:
        step = record.progress.step
        if self._every and (step % self._every == 0 or step % self.run.recipe.checkpoint.every_steps == 0):
            self._compare(step)

    def rewind(self, progress: Progress) -> None:
        self._compared = None

    def finish(self, progress: Progress) -> None:
        if self._every and progress.step != self._compared:
            self._compare(progress.step)

    def stop(self, progress: Progress) -> None:
        self.finish(progress)

    def _compare(self, step: int) -> None:
        self._compared, groups = step, self.run.groups
        with whole_parameters(self.run.models):
            mine = self._digests()
        everyones = groups.gather((socket.gethostname(), mine))
        odd = odd_ones_out({rank: digests for rank, (_, digests) in enumerate(everyones)})
        if not odd:
            return
        ranks = sorted({rank for _, ranks in odd for rank in ranks})
        named = ", ".join(f"rank {rank} ({everyones[rank][0]})" for rank in ranks)
        self.run.recorder.event(step, "replicas_differ", ranks=ranks, parameters=[name for name, _ in odd][:10])
        raise SeedError(
            f"step {step}: parameter {odd[0][0]} of {named} differs from its replicas' though nothing failed: suspect "
            "hardware; start the run again without that machine, from its last checkpoint"
        )

    def _digests(self) -> Digests:
        groups = self.run.groups
        found = {}
        for chunk, model in enumerate(self.run.models):
            for name, parameter in model.module.named_parameters():
                split = getattr(parameter, "tensor_model_parallel", False)
                part = f", tensor-parallel part {groups.tensor_rank}" if split else ""
                found[f"{name} (stage {groups.pipeline_rank}.{chunk}{part})"] = digest(parameter)
        return found


def digest(parameter: torch.Tensor) -> int:
    """Sum of the bit patterns modulo 2**64: any single flipped bit changes it."""
    kind = torch.int16 if parameter.element_size() == 2 else torch.int32
    return int(parameter.detach().reshape(-1).view(kind).sum(dtype=torch.int64))


def odd_ones_out(digests: Mapping[int, Digests]) -> list[tuple[str, list[int]]]:
    """Parameters on which ranks disagree, each with the ranks that are in the minority (all, in a tie)."""
    by_name: dict[str, dict[int, int]] = defaultdict(dict)
    for rank, own in digests.items():
        for name, value in own.items():
            by_name[name][rank] = value
    return [(name, _minority(values)) for name, values in by_name.items() if len(set(values.values())) > 1]


def _minority(values: Mapping[int, int]) -> list[int]:
    (most, count), *others = Counter(values.values()).most_common()
    tie = any(other == count for _, other in others)
    return sorted(rank for rank, value in values.items() if tie or value != most)
