"""How far oracles agree on the files that both have scored (Seed-Coder report, appendix A.2)."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.errors import DataError
from data_prep.oracle.scores import MAXIMUM_SCORE, read_scores, scores_manifest

CLASSES = int(MAXIMUM_SCORE) + 1


@dataclass(frozen=True)
class Agreement:
    """Of two oracles, on the files that both have scored, with the same text.

    exact, within_1: shares of files whose scores, rounded (halves up), are equal, or differ by 1 at most; spearman:
    rank correlation, None where one oracle gives all files the same score; mae: mean absolute difference; bias: mean of
    the second's score less the first's; matrix: files by rounded score, [first][second], 0 to 10 each.
    """

    first: str
    second: str
    files: int
    exact: float
    within_1: float
    spearman: float | None
    mae: float
    bias: float
    matrix: list[list[int]]


def compare_oracles(corpus: Path, names: Sequence[str]) -> dict[str, Any]:
    """Every pair of `names`: `oracles` (what each is, and how many files it scored) and `pairs` (see `Agreement`).

    Raises `DataError` for fewer than two oracles, or two that have no file in common.
    """
    if len(set(names)) != len(names) or len(names) < 2:
        raise DataError(f"oracles {', '.join(names) or '(none)'}: at least two different ones are to be compared")
    tables = {name: read_scores(corpus, name) for name in names}
    oracles = []
    for name in names:
        manifest = scores_manifest(corpus, name)
        about = {key: manifest.get(key) for key in ("model", "rows", "scored", "problems")}
        oracles.append({"name": name, "prompt": tables[name]["prompt_version"][0].as_py(), **about})
    pairs = [asdict(_pair(tables, *pair)) for pair in itertools.combinations(names, 2)]
    return {"format": "data_prep.oracle.comparison/1", "corpus": Path(corpus).name, "oracles": oracles, "pairs": pairs}


def _pair(tables: dict[str, pa.Table], first: str, second: str) -> Agreement:
    keys = ["id", "sha256"]  # a file that has changed between them is none that both have scored
    scored = [
        tables[name].select([*keys, "score"]).filter(tables[name]["score"].is_valid()) for name in (first, second)
    ]
    joined = scored[0].join(scored[1].rename_columns([*keys, "other"]), keys, join_type="inner").sort_by("id")
    if not joined.num_rows:
        raise DataError(f"oracles {first} and {second} have scored no file in common: nothing to compare")
    return agreement(first, second, joined["score"].to_numpy(), joined["other"].to_numpy())


def agreement(first: str, second: str, one: np.ndarray, other: np.ndarray) -> Agreement:
    """One of two oracles' scores [files], 0 to 10, of the same files in the same order."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    rounded = [np.floor(scores + 0.5).astype(np.int64) for scores in (one, other)]
    matrix = np.bincount(rounded[0] * CLASSES + rounded[1], minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)
    apart = np.abs(rounded[0] - rounded[1])
    return Agreement(
        first,
        second,
        files=len(one),
        exact=float(np.mean(apart == 0)),
        within_1=float(np.mean(apart <= 1)),
        spearman=spearman(one, other),
        mae=float(np.mean(np.abs(one - other))),
        bias=float(np.mean(other - one)),
        matrix=matrix.tolist(),
    )


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's correlation of ranks, equal values sharing their mean rank; None where either does not vary."""
    ranks = [_ranks(values) for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    spread = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / spread) if spread else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
