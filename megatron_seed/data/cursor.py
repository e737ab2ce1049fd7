"""Which stretches of its stream a source has given, and in which order a phase takes the next ones.

Taking a stream from left to right would fill whole batches from one long document. So a phase takes windows of one
sequence each, shuffled within blocks of many. A phase may end, or its mixture change, in the middle of a block: what is
left of it is kept in the cursor and comes first in the next phase, so that nothing is given twice or never.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from megatron_seed.data.keyed import keyed_permutation

Range = tuple[int, int]
"""[first, last + 1) in tokens of a stream."""


class Cursor(BaseModel):
    """Everything before `frontier` has been given, except `leftovers`."""

    model_config = ConfigDict(frozen=True)

    frontier: int = 0
    leftovers: tuple[Range, ...] = ()

    @property
    def given(self) -> int:
        """Tokens given so far."""
        return self.frontier - sum(stop - start for start, stop in self.leftovers)

    @property
    def first(self) -> int:
        """First place of the stream that was not given yet."""
        return self.leftovers[0][0] if self.leftovers else self.frontier


@dataclass(frozen=True)
class Windows:
    """The samples of one source in one phase: first the leftovers, one after the other, then shuffled blocks."""

    cursor: Cursor
    """Where the phase found the source."""
    length: int
    """Tokens of a sample, the last label not counted."""
    block: int
    """Windows that are shuffled together."""
    key: str
    """Decides the shuffles, with the place of each block."""

    def ranges(self, sample: int) -> list[Range]:
        """Where the length + 1 tokens of a sample lie; the last one is only a label."""
        if sample < self._drained:
            return self._cut(sample * self.length, (sample + 1) * self.length + 1)
        block, place = divmod(sample - self._drained, self.block)
        start = self._block_start(block) + self._order(block)[place] * self.length
        return [(start, start + self.length + 1)]

    def after(self, samples: int) -> Cursor:
        """The cursor once `samples` have been taken."""
        if samples < self._drained:
            rest = self._cut(samples * self.length, self._drained * self.length)
            return Cursor(frontier=self._block_start(0), leftovers=tuple(rest))
        block, taken = divmod(samples - self._drained, self.block)
        if not taken:
            return Cursor(frontier=self._block_start(block))
        start = self._block_start(block)
        rest = sorted(start + place * self.length for place in self._order(block)[taken:])
        leftovers = _joined((window, window + self.length) for window in rest)
        return Cursor(frontier=self._block_start(block + 1), leftovers=leftovers)

    @property
    def _drained(self) -> int:
        """Samples that the leftovers make, the last one filled up from the frontier."""
        return -(-sum(stop - start for start, stop in self.cursor.leftovers) // self.length)

    def _block_start(self, block: int) -> int:
        left = sum(stop - start for start, stop in self.cursor.leftovers)
        filled_up = self.cursor.frontier + self._drained * self.length - left
        return filled_up + block * self.block * self.length

    def _cut(self, start: int, stop: int) -> list[Range]:
        """Positions [start, stop) of the leftovers and what follows the frontier, as places in the stream."""
        found, position = [], 0
        following = (self.cursor.frontier, self._block_start(1))
        for first, last in (*self.cursor.leftovers, following):
            low, high = max(start, position), min(stop, position + last - first)
            if low < high:
                found.append((first + low - position, first + high - position))
            position += last - first
        return found

    def _order(self, block: int) -> list[int]:
        return _order(self.block, f"{self.key}:{self._block_start(block)}:{self.length}")


@functools.lru_cache(maxsize=64)
def _order(size: int, key: str) -> list[int]:
    return keyed_permutation(size, key).tolist()


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Neighbouring ranges as one."""
    joined: list[Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)
