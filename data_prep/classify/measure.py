"""How well a classifier does on documents of sites that it has not seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.classify.thresholds import curve, precision_recall, wilson

_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)
_BLOCK = 50  # resamples at a time


@dataclass(frozen=True)
class Judged:
    """Labelled documents (or sites) and what a classifier says of them."""

    labels: tuple[str, ...]
    true: np.ndarray
    """int [documents]: index of the label."""
    probabilities: np.ndarray
    """fp32 [documents, labels]."""
    sites: np.ndarray
    """int [documents]: which repository."""
    places: np.ndarray
    """int64 [documents, 2]: documents shard and row."""


def measure_recall(judged: Judged, positive: str, threshold: float, seed: int = 1234) -> dict[str, Any]:
    """What a threshold keeps: numbers of `PrecisionRecall`, `intervals` and `curve`.

    `intervals`: of precision and recall, 95 %, the wider of two on each side: Wilson's, and that of drawing sites anew,
    since documents of one site are alike.
    """
    number = judged.labels.index(positive)
    scores, hits = judged.probabilities[:, number], judged.true == number
    found = precision_recall(scores, hits, threshold)
    kept = scores >= threshold
    return {
        **found.as_dict(),
        "sites": len(np.unique(judged.sites)),
        "positive_sites": len(np.unique(judged.sites[hits])),
        "intervals": {
            "precision": _interval(kept & hits, kept, judged.sites, seed),
            "recall": _interval(kept & hits, hits, judged.sites, seed),
        },
        "curve": curve(scores, hits),
    }


def measure_labels(judged: Judged) -> dict[str, Any]:
    """Of the most probable label: `accuracy` beside `majority` (always the most common label), and for each label its
    documents, precision and recall (None where there is nothing to divide by) and `confusion` (true x said)."""
    said, count = judged.probabilities.argmax(axis=1), len(judged.labels)
    confusion = np.bincount(judged.true * count + said, minlength=count * count).reshape(count, count)
    right, total = np.diag(confusion), max(1, len(said))
    rows = [
        {
            "label": label,
            "documents": int(confusion[place].sum()),
            "precision": _share(right[place], confusion[:, place].sum()),
            "recall": _share(right[place], confusion[place].sum()),
        }
        for place, label in enumerate(judged.labels)
    ]
    return {
        "documents": len(said),
        "sites": len(np.unique(judged.sites)),
        "accuracy": float(right.sum() / total),
        "majority": float(confusion.sum(axis=1).max() / total),
        "labels": rows,
        "confusion": confusion.tolist(),
    }


def by_site(judged: Judged) -> Judged:
    """One row for each site and label that its documents have: the mean of what is said of the site's documents."""
    count = int(judged.sites.max()) + 1 if len(judged.sites) else 0
    sums = np.zeros((count, len(judged.labels)))
    np.add.at(sums, judged.sites, judged.probabilities)
    means = sums / np.maximum(1, np.bincount(judged.sites, minlength=count))[:, None]
    _, first = np.unique(judged.sites * len(judged.labels) + judged.true, return_index=True)
    sites = judged.sites[first]
    return Judged(judged.labels, judged.true[first], means[sites].astype(np.float32), sites, judged.places[first])


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _interval(part: np.ndarray, whole: np.ndarray, sites: np.ndarray, seed: int) -> list[float]:
    low, high = wilson(int(part.sum()), int(whole.sum()))
    groups = np.unique(sites[whole], return_inverse=True)[1]
    parts, wholes = np.bincount(groups, part[whole]), np.bincount(groups)
    if len(wholes) > 1:
        drawn = np.random.default_rng(seed)
        shares = []
        for _ in range(0, _RESAMPLES, _BLOCK):
            times = drawn.multinomial(len(wholes), np.full(len(wholes), 1 / len(wholes)), _BLOCK)
            shares.append((times @ parts) / (times @ wholes))
        ends = np.percentile(np.concatenate(shares), _INTERVAL)
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return [low, high]
