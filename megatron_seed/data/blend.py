"""Which source gives sample number n of a phase: exact shares, at every point, to within one sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 4096


class Blend:
    """The order of sources, extended as far as it is asked for; what was given never changes.

    Tijdeman's rule ("The chairman assignment problem", 1980): of the sources that would not get ahead of their share,
    the one whose next sample falls due first. After n samples, source i has given within one of n x weight i.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = np.asarray(weights, np.float64) / np.sum(weights)
        self._order = np.empty(0, np.int16)
        self._counts_at_blocks = [np.zeros(len(self._weights), np.int64)]

    def source(self, index: int) -> tuple[int, int]:
        """Source of sample `index`, and how many samples that source had given before it."""
        while index >= len(self._order):
            self._extend()
        chosen = int(self._order[index])
        return chosen, int(self.counts(index)[chosen])

    def counts(self, samples: int) -> np.ndarray:
        """[sources], samples that each source has given among the first `samples`."""
        while samples > len(self._order):
            self._extend()
        block = samples // _BLOCK
        rest = self._order[block * _BLOCK : samples]
        return self._counts_at_blocks[block] + np.bincount(rest, minlength=len(self._weights))

    def _extend(self) -> None:
        counts = self._counts_at_blocks[-1].copy()
        start = len(self._order)
        order = np.empty(_BLOCK, np.int16)
        slack = 1.0 - 1.0 / max(2, 2 * len(counts) - 2)
        for offset in range(_BLOCK):
            due = (counts + slack) / self._weights
            ready = self._weights * (start + offset + 1) - counts >= 1.0 - slack
            chosen = int(np.argmin(np.where(ready, due, np.inf)))
            order[offset] = chosen
            counts[chosen] += 1
        self._order = np.concatenate([self._order, order])
        self._counts_at_blocks.append(counts)
