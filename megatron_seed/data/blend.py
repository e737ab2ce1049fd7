"""Which source gives sample number n of a phase: exact shares, at every point, to within one sample."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 4096


class BlendMemo(NamedTuple):
    """How often each source was chosen among the first `samples`: from here on the order needs nothing before it."""

    samples: int
    counts: tuple[int, ...]


class Blend:
    """The order of sources, extended as far as it is asked for; it depends on the weights alone.

    Tijdeman's rule ("The chairman assignment problem", 1980): of the sources that would not get ahead of their share,
    the one whose next sample falls due first. After n samples, source i has given within one of n x weight i. A memo
    spares a run that goes on at sample 400,000,000 to compute those before it; nothing before it can then be asked.
    """

    def __init__(self, weights: Sequence[float], memo: BlendMemo | None = None) -> None:
        self._weights = np.asarray(weights, np.float64) / np.sum(weights)
        self._base = memo.samples if memo else 0
        counts = np.asarray(memo.counts, np.int64) if memo else np.zeros(len(self._weights), np.int64)
        self._counts_at_blocks = [counts]
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()

    def source(self, index: int) -> tuple[int, int]:
        """Source of sample `index`, and how many samples that source had given before it."""
        block, place = self._locate(index)
        chosen = int(self._blocks[block][place])
        return chosen, int(self.counts(index)[chosen])

    def counts(self, samples: int) -> np.ndarray:
        """[sources], samples that each source has given among the first `samples`."""
        if len(self._weights) == 1:
            return np.asarray([samples])
        block, place = self._locate(samples)
        return self._counts_at_blocks[block] + np.bincount(self._blocks[block][:place], minlength=len(self._weights))

    def memo(self, samples: int) -> BlendMemo:
        return BlendMemo(samples, tuple(self.counts(samples).tolist()))

    def _locate(self, index: int) -> tuple[int, int]:
        if index < self._base:
            raise IndexError(f"sample {index} lies before the {self._base} that are known")
        block, place = divmod(index - self._base, _BLOCK)
        while block >= len(self._blocks):
            with self._lock:  # the thread that reads ahead and the one that counts may both have come to the end
                if block >= len(self._blocks):
                    self._extend()
        return block, place

    def _extend(self) -> None:
        if len(self._weights) == 1:
            self._blocks.append(np.zeros(_BLOCK, np.int16))
            return
        counts = self._counts_at_blocks[-1].copy()
        start = self._base + len(self._blocks) * _BLOCK
        order = np.empty(_BLOCK, np.int16)
        slack = 1.0 - 1.0 / (2 * len(counts) - 2)
        for offset in range(_BLOCK):
            due = (counts + slack) / self._weights
            ready = self._weights * (start + offset + 1) - counts >= 1.0 - slack
            chosen = int(np.argmin(np.where(ready, due, np.inf)))
            order[offset] = chosen
            counts[chosen] += 1
        self._blocks.append(order)
        self._counts_at_blocks.append(counts)
