"""Ranks that hold the others up although nothing fails: a hot GPU, a busy neighbour, a bad link to the data."""

from __future__ import annotations

import socket
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_seed.runtime.groups import Groups


@dataclass(frozen=True)
class Pace:
    """How long one rank was busy with a step, typically over a window of steps."""

    rank: int
    host: str
    stage: tuple[int, int]
    """Pipeline and tensor-parallel rank: ranks with the same one do the same work on other data."""
    busy_s: float


@dataclass(frozen=True)
class SlowRank:
    rank: int
    host: str
    busy_s: float
    usual_s: float
    """Median of the ranks that do the same work."""


@dataclass
class SlowRanks:
    """Compares replicas every `steps` steps, by the median of each one's steps: a single late one does not count."""

    ratio: float
    steps: int
    busy_s: list[float] = field(default_factory=list)

    def add(self, busy_s: float, groups: Groups) -> list[SlowRank]:
        """Take in one step's seconds until this rank's backward pass was done, without waiting for other replicas.

        Every rank calls it for every step; where a window is full they compare, and all get the same answer.
        """
        self.busy_s.append(busy_s)
        if len(self.busy_s) < self.steps:
            return []
        stage = (groups.pipeline_rank, groups.tensor_rank)
        own = Pace(groups.rank, socket.gethostname(), stage, statistics.median(self.busy_s))
        self.busy_s.clear()
        return find_slow(groups.gather(own), self.ratio)


def find_slow(paces: Sequence[Pace], ratio: float) -> list[SlowRank]:
    """Ranks that take more than `ratio` times the median of those that do the same work; of two, the faster counts."""
    by_stage: dict[tuple[int, int], list[Pace]] = defaultdict(list)
    for pace in paces:
        by_stage[pace.stage].append(pace)
    slow = []
    for same in by_stage.values():
        usual_s = statistics.median_low(pace.busy_s for pace in same)
        slow += [SlowRank(p.rank, p.host, p.busy_s, usual_s) for p in same if p.busy_s > ratio * usual_s]
    return sorted(slow, key=lambda rank: rank.rank)
