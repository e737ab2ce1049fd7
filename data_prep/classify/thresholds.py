"""Where to cut the scores of a classifier with two labels, and what that keeps."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_prep.errors import DataError

_Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class PrecisionRecall:
    """What a threshold keeps of documents of which `positives` are to be found."""

    threshold: float
    documents: int
    positives: int
    recalled: int
    """Documents with at least the threshold."""
    found: int
    """Positives among them."""

    @property
    def base_rate(self) -> float:
        return self.positives / self.documents if self.documents else 0.0

    @property
    def precision(self) -> float:
        """1 where nothing is recalled."""
        return self.found / self.recalled if self.recalled else 1.0

    @property
    def recall(self) -> float:
        """1 where there is nothing to be found."""
        return self.found / self.positives if self.positives else 1.0

    def as_dict(self) -> dict[str, Any]:
        names = ("base_rate", "precision", "recall")
        return asdict(self) | {name: getattr(self, name) for name in names}


def threshold_for_recall(scores: Sequence[float] | np.ndarray, positive: Sequence[bool], recall: float) -> float:
    """The highest threshold with which at least this share of the positives has a score that is not below it.

    `scores`: [documents]; `positive`: [documents], whether each is to be found; `recall`: above 0, at most 1. Raises
    `DataError` where there are no positives, or a score is not a number.
    """
    scores, positive = _checked(scores, positive)
    if not 0 < recall <= 1:
        raise DataError(f"recall {recall:g}: it must be above 0 and at most 1")
    own = np.sort(scores[positive])
    if not len(own):
        raise DataError("no threshold can be picked for a recall: there are no positive documents")
    may_miss = len(own) - int(np.ceil(recall * len(own) - 1e-9))  # 0.99 * 100 is a little more than 99
    return float(own[may_miss])


def precision_recall(
    scores: Sequence[float] | np.ndarray, positive: Sequence[bool], threshold: float
) -> PrecisionRecall:
    """What is kept by a threshold: documents whose score is not below it. Arguments as of `threshold_for_recall`."""
    scores, positive = _checked(scores, positive)
    kept = scores >= threshold
    return PrecisionRecall(
        float(threshold), len(scores), int(positive.sum()), int(kept.sum()), int((kept & positive).sum())
    )


def curve(scores: Sequence[float] | np.ndarray, positive: Sequence[bool], points: int = 200) -> dict[str, list[float]]:
    """Precision and recall at thresholds that lie evenly among the positives, highest first.

    `threshold`, `precision`, `recall`: at most so many points each, which end with the lowest positive's score.
    """
    scores, positive = _checked(scores, positive)
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order])
    last_of_equals = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))
    total = hits[-1] if len(hits) else 0
    if not total:
        return {"threshold": [], "precision": [], "recall": []}
    found = hits[last_of_equals]
    wanted = np.unique(np.ceil(np.linspace(1, total, min(points, total))).astype(np.int64))
    places = last_of_equals[np.unique(np.searchsorted(found, wanted))]
    return {
        "threshold": ordered[places].astype(float).tolist(),
        "precision": (hits[places] / (places + 1)).tolist(),
        "recall": (hits[places] / total).tolist(),
    }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score: it holds for few trials and for shares of 0 and 1."""
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z * _Z
    middle = share + z2 / (2 * trials)
    half = _Z * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    low, high = (middle - half) / (1 + z2 / trials), (middle + half) / (1 + z2 / trials)
    return float(max(0.0, low)), float(min(1.0, high))


def _checked(scores: Sequence[float] | np.ndarray, positive: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise DataError(f"{scores.size} scores for {positive.size} documents: there must be one for each")
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are not numbers")
    return scores, positive
