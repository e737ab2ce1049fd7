"""How well a scorer predicts an oracle, on files and repositories that it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

CLASSES = range(11)
_BOX = (0.05, 0.25, 0.5, 0.75, 0.95)


def measure(
    true: np.ndarray, predicted: np.ndarray, languages: Sequence[str], train_scores: np.ndarray
) -> dict[str, Any]:
    """Errors on held-out files, scores from 0 to 10.

    `mae`; `class_mae`: mean over the rounded true scores (halves up) of the MAE within each (Seed-Coder report, 2.2.1);
    `spearman` (None when nothing varies); `mean_predictor_mae`: of always saying the mean of `train_scores`.
    `classes`: for each true score the files, their MAE and the 5, 25, 50, 75 and 95 % quantiles of what was predicted.
    `languages`: files, MAE and bias (predicted less true), those with most files first.
    """
    errors = np.abs(predicted - true)
    rounded = np.floor(true + 0.5).astype(int)
    classes = {
        score: {
            "files": int(own.sum()),
            "mae": float(errors[own].mean()),
            "box": [float(value) for value in np.quantile(predicted[own], _BOX)],
        }
        for score in CLASSES
        if (own := rounded == score).any()
    }
    varies = np.ptp(true) > 0 and np.ptp(predicted) > 0
    return {
        "files": len(true),
        "mae": float(errors.mean()),
        "class_mae": float(np.mean([row["mae"] for row in classes.values()])),
        "spearman": float(spearmanr(true, predicted).statistic) if varies else None,
        "bias": float((predicted - true).mean()),
        "mean_predictor_mae": float(np.abs(true - train_scores.mean()).mean()),
        "classes": classes,
        "languages": _by_language(true, predicted, np.array(languages)),
    }


def _by_language(true: np.ndarray, predicted: np.ndarray, languages: np.ndarray) -> dict[str, Any]:
    names, counts = np.unique(languages, return_counts=True)
    found = {}
    for count, name in sorted(zip(-counts, names, strict=True)):
        own = languages == name
        errors = predicted[own] - true[own]
        found[str(name)] = {
            "files": int(-count),
            "mae": float(np.abs(errors).mean()),
            "bias": float(errors.mean()),
        }
    return found
