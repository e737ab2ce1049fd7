"""Replicas slower than the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from megatron_seed.watch.slow_ranks import Pace, SlowRanks, find_slow


def paces(*busy_s: float, stages: int = 1) -> list[Pace]:
    return [Pace(rank, f"node{rank}", (rank % stages, 0), seconds) for rank, seconds in enumerate(busy_s)]


@pytest.mark.parametrize(
    ("busy_s", "slow"),
    [
        ((1.0, 1.0, 1.0, 1.5), [3]),
        ((1.0, 1.2, 0.9, 1.1), []),
        ((2.0, 1.0), [0]),
        ((1.0,), []),
        ((3.0, 1.0, 1.1, 2.0, 1.0), [0, 3]),
    ],
)
def test_those_above_the_median_by_the_ratio_are_slow(busy_s: tuple[float, ...], slow: list[int]) -> None:
    assert [rank.rank for rank in find_slow(paces(*busy_s), ratio=1.3)] == slow


def test_ranks_are_compared_with_those_that_do_the_same_work() -> None:
    """Two pipeline stages, the second with three times the work; rank 4 of the first is slow."""
    (slow,) = find_slow(paces(1.0, 3.0, 1.0, 3.1, 1.6, 3.2, stages=2), ratio=1.3)
    assert (slow.rank, slow.host, slow.busy_s, slow.usual_s) == (4, "node4", 1.6, 1.0)


@dataclass
class Alone:
    """Groups of a process whose fellow takes one second for each step."""

    rank: int = 0
    pipeline_rank: int = 0
    tensor_rank: int = 0
    gathered: list[Pace] = field(default_factory=list)

    def gather(self, own: Any) -> list[Any]:
        self.gathered.append(own)
        return [own, Pace(1, "other", (0, 0), 1.0)]


def test_it_is_compared_once_a_window_and_one_late_step_does_not_count() -> None:
    groups, window = Alone(), SlowRanks(ratio=1.3, steps=5)
    late_once = [window.add(seconds, groups) for seconds in (1.0, 9.0, 1.0, 1.0, 1.0)]
    assert late_once == [[]] * 5 and len(groups.gathered) == 1
    always_late = [window.add(2.0, groups) for _ in range(5)]
    assert [[rank.rank for rank in slow] for slow in always_late] == [[], [], [], [], [0]]
    assert len(groups.gathered) == 2
