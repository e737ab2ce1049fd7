"""The high-quality subset (report, 2.2.4): rounds of recall from seeds that annotations choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full.github import KEPT, corpus_of, one_side
from launch.full.settings import FullConfig
from launch.full.sides import sides_of
from launch.stages import Stages

NAME = "high_quality"
SELECTION = "high_quality"
_ROUNDS = 2
# Scores are relative to what is there: the best third of a language is worth learning from, the worst is not. Ours.
_SEED_SHARE, _GOOD_SHARE, _POOR_SHARE = 0.15, 0.3, 0.5
_RECALLED = 0.3
"""Of a source's files, at most so many are recalled; ours. The report's subset is about a tenth of its code."""
_LEAST_SEEDS = 20


def prepare_subset(config: FullConfig, stages: Stages, github: dict[str, Any]) -> dict[str, Any]:
    """Finds the subset of the code and makes a selection of it; returns what its report says, and the selection."""
    corpus = corpus_of(config)
    return stages.run("high quality", [github["kept"], _ROUNDS], lambda: _find(config, corpus))


def _find(config: FullConfig, corpus: Path) -> dict[str, Any]:
    from data_prep.subset.run import find_subset
    from data_prep.subset.settings import SubsetConfig

    scores = _scores_at(corpus, (1 - _SEED_SHARE, 1 - _GOOD_SHARE, _POOR_SHARE))
    with bars() as progress:
        report = find_subset(corpus, SubsetConfig.model_validate(_asked(*scores)), NAME, config.workers, progress)
    return {"report": report, "scores": scores, "selected": _select(config, corpus)}


def _asked(seed: float, good: float, poor: float) -> dict[str, Any]:
    """Sources and rules; the numbers are scores of the scorer."""
    return {
        "selection": KEPT,
        "rounds": _ROUNDS,
        "good": f"quality.score >= {good}",
        "threshold": {"share": _RECALLED},
        "minimum_seeds": _LEAST_SEEDS,
        "hard_negatives": [
            {"name": "uncommented", "where": f"quality.score >= {good} AND structure.comment_share = 0"},
            {"name": "recalled but poor", "where": f"quality.score < {poor}", "recalled": True},
        ],
        "new_positives": {"where": f"quality.score >= {good}", "probability": 0.5},
        "validation": {"fraction": 0.2, "minimum_repositories": 4},
        "sources": [
            {
                "name": "python",
                "where": "language = 'Python'",
                "seeds": f"quality.score >= {seed} AND structure.comment_share > 0.02",
            },
            {"name": "other_languages", "where": "language <> 'Python'", "seeds": f"quality.score >= {seed}"},
        ],
    }


def _scores_at(corpus: Path, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Scores below which these shares of the kept files are."""
    from data_prep.report.source import open_source

    with open_source(corpus, KEPT, 1) as source:
        found = f"quantile_cont(quality.score::DOUBLE, {list(shares)}) AS scores FROM {source.joined('quality')}"
        (row,) = source.rows(f"SELECT {found} WHERE split = 'train'")
    return tuple(round(score, 3) for score in row["scores"])


def _select(config: FullConfig, corpus: Path) -> dict[str, Any]:
    """What the selection `kept` keeps to train on and the last round recalls, or a seed."""
    from data_prep.select import SelectionConfig, read_selection, select

    kept = SelectionConfig.model_validate(read_selection(corpus, KEPT)["config"])
    recalled = {"name": "not_recalled", "drop": f"NOT coalesce({NAME}.recalled OR {NAME}.seed, false)"}
    with bars() as progress:
        asked = one_side(kept, sides_of(corpus, KEPT).to_train(), recalled)
        made = select(corpus, SELECTION, asked, progress, config.workers)
    return {"digest": made["digest"], **made["left"]["train"]}
