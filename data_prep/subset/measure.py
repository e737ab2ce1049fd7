"""How well a round recalls: the threshold, precision and recall on held-out repositories, sizes and mean scores.

Everything is read off counts by bin of log-odds, which add up over shards; thresholds are borders of bins, so the
numbers are exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.classify.thresholds import wilson
from data_prep.errors import DataError
from data_prep.storage import open_array
from data_prep.subset.rounds import TALLY
from data_prep.subset.settings import Source, Threshold
from data_prep.subset.state import BINS, probability_of_bin

_NOT_GOOD, _GOOD, _UNKNOWN = range(3)
_VALIDATION = 1
_CURVE_POINTS = 100


@dataclass(frozen=True)
class Tally:
    """Of a round and source, float64 [side of the split (1: validation), not good/good/unknown, bins] each."""

    documents: np.ndarray
    size_bytes: np.ndarray
    scored: np.ndarray
    score: np.ndarray

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "Tally":
        """The sum of what shards counted."""
        sums = {name: np.zeros((2, 3, BINS)) for name in TALLY.names[3:]}
        for path in paths:
            records = np.array(open_array(path))
            for name, total in sums.items():
                total[records["side"], records["good"], records["bin"]] += records[name]
        return cls(**sums)

    def from_bin(self, values: np.ndarray, threshold: int) -> float:
        return float(values[..., threshold:].sum())


def choose_threshold(tally: Tally, wanted: Threshold, source: Source) -> int:
    """The bin from which on documents are recalled. Raises `DataError` where there is nothing to choose by."""
    if wanted.share is not None:
        recalled = np.cumsum(tally.documents.sum((0, 1))[::-1])[::-1]  # from each bin on
        fits = np.flatnonzero((recalled <= wanted.share * recalled[0]) & (recalled > 0))
        return int(fits[0]) if len(fits) else int(np.flatnonzero(recalled > 0)[-1])
    good = np.cumsum(tally.documents[_VALIDATION, _GOOD][::-1])[::-1]
    if not good[0]:
        raise DataError(
            f"source {source.name!r}: no document of a held-out repository is good ({source.good}), so no threshold "
            "can be chosen by recall: hold more repositories out (validation.fraction), or choose it by share"
        )
    return int(np.flatnonzero(good >= wanted.recall * good[0] - 1e-9)[-1])


def measure(tally: Tally, threshold: int) -> dict[str, Any]:
    """What a threshold recalls; `validation` is of held-out repositories, of documents known to be good or not."""
    documents, recalled = float(tally.documents.sum()), tally.from_bin(tally.documents, threshold)
    return {
        "threshold": threshold,
        "probability": probability_of_bin(threshold),
        "documents": int(documents),
        "size_bytes": int(tally.size_bytes.sum()),
        "mean_score": _mean(tally.score.sum(), tally.scored.sum()),
        "recalled": {
            "documents": int(recalled),
            "size_bytes": int(tally.from_bin(tally.size_bytes, threshold)),
            "share": recalled / documents if documents else 0.0,
            "mean_score": _mean(tally.from_bin(tally.score, threshold), tally.from_bin(tally.scored, threshold)),
        },
        "validation": _validation(tally, threshold),
    }


def _validation(tally: Tally, threshold: int) -> dict[str, Any]:
    good, other = tally.documents[_VALIDATION, _GOOD], tally.documents[_VALIDATION, _NOT_GOOD]
    found, wrong = int(good[threshold:].sum()), int(other[threshold:].sum())
    judged, positives = int(good.sum() + other.sum()), int(good.sum())
    points = _points(good, other)
    return {
        "documents": judged,
        "unknown": int(tally.documents[_VALIDATION, _UNKNOWN].sum()),
        "good": positives,
        "recalled": found + wrong,
        "found": found,
        "base_rate": positives / judged if judged else None,
        "precision": found / (found + wrong) if found + wrong else None,
        "precision_interval": wilson(found, found + wrong),
        "recall": found / positives if positives else None,
        "recall_interval": wilson(found, positives),
        "average_precision": _average_precision(points),
        "curve": _thinned(points),
    }


def _points(good: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[thresholds, (recall, precision)], from the highest threshold on."""
    hits, all_ = np.cumsum(good[::-1]), np.cumsum((good + other)[::-1])
    changes = np.flatnonzero((good + other)[::-1])
    if not good.sum():
        return np.empty((0, 2))
    return np.stack([hits[changes] / good.sum(), hits[changes] / all_[changes]], axis=1)


def _average_precision(points: np.ndarray) -> float | None:
    if not len(points):
        return None
    return float(np.sum(np.diff(points[:, 0], prepend=0) * points[:, 1]))


def _thinned(points: np.ndarray) -> list[list[float]]:
    """At most so many points, even in recall, the last among them."""
    if not len(points):
        return []
    steps = np.searchsorted(points[:, 0], np.linspace(0, 1, _CURVE_POINTS) - 1e-12)
    chosen = np.unique(np.minimum(steps, len(points) - 1))
    return points[chosen].round(5).tolist()


def _mean(total: float, count: float) -> float | None:
    return float(total / count) if count else None
