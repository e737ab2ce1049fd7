"""Mathematical web for the first phase (report, 2.3): pages of the same archives, by a second classifier and scorer."""

from __future__ import annotations

from typing import Any

from launch.full.quality import Sample, learn_and_score, rate
from launch.full.settings import FullConfig
from launch.full.web import MATHEMATICS, classify, corpus_of, lowest_tenth, passing, pick
from launch.stages import Stages

CATEGORY = "math_web"
"""Of the recipe's data."""
SCORES = "math_quality"
RATED, KEPT = "math_rated", "math_kept"
_PASSES = f"coalesce({MATHEMATICS}.recalled, false)"
_HIGHER = f"coalesce({SCORES}.score, 0) > coalesce(quality.score, 0)"
TAKEN = {"name": "about_mathematics", "drop": f"{_PASSES} AND {_HIGHER}"}
"""The rule on pages about code by which those that are about mathematics as well go where they score higher."""
_BYTES_PER_TOKEN = 4
"""At most, of text with formulas; measured: 2 to 3."""


class TooFewError(Exception):
    """There is too little mathematics on this machine; says how much."""


def prepare_math_web(config: FullConfig, stages: Stages, pages: dict[str, Any], context: int) -> dict[str, Any]:
    """The archives' pages to the selection `math_kept`; returns the numbers of each step.

    `pages`: what `prepare_web` returned; `context`: tokens of the longest sequence that is evaluated. `left_out` says
    what there was too little of, or is None.
    """
    found: dict[str, Any] = {"left_out": None}
    try:
        _prepare(config, stages, pages, context, found)
    except TooFewError as error:
        found["left_out"] = str(error)
    return found


def _prepare(config: FullConfig, stages: Stages, pages: dict[str, Any], context: int, found: dict[str, Any]) -> None:
    """Puts what each step returns into `found`."""
    from data_prep.errors import DataError
    from data_prep.scorer.examples import MINIMUM_HELD_OUT, MINIMUM_TRAIN

    corpus = corpus_of(config)
    asked = [pages["digest"], config.labelled_pages, config.oracle_url, config.oracle_model]
    found["recall"] = recall = stages.run(
        "math recall", asked, lambda: classify(config, corpus, MATHEMATICS, "math_recall")
    )
    if recall["classifier"] is None:
        labelled = f"{recall['oracle']['labels'].get('math', 0)} of {recall['oracle']['scored']}"
        raise TooFewError(f"the oracle says of {labelled} pages that they are about it: {recall['left_out']}")
    inputs = [pages["digest"], recall["digest"]]
    rated = stages.run("math candidates", inputs, lambda: pick(config, RATED, _PASSES))
    if (number := _of(rated, "documents")) < MINIMUM_TRAIN + MINIMUM_HELD_OUT:
        raise TooFewError(f"{number} pages are about mathematics, a scorer needs {MINIMUM_TRAIN + MINIMUM_HELD_OUT}")
    sample = Sample(config.oracle_pages, RATED, "math")
    oracle = rate(config, stages, "math", corpus, rated["selected"], sample, SCORES)
    try:
        found["quality"] = {"oracle": oracle, **learn_and_score(config, stages, "math", corpus, oracle, SCORES)}
    except DataError as error:
        raise TooFewError(str(error)) from None
    inputs += [pages["quality"]["digest"], found["quality"]["digest"]]
    about_code = {"name": "about_code", "drop": f"{passing(pages['recall'])} AND NOT ({_HIGHER})"}
    rules = [about_code, lowest_tenth(f"{SCORES}.score", pages["categories"])]
    chosen = stages.run("math selection", [inputs, rules], lambda: pick(config, KEPT, _PASSES, *rules))
    found |= chosen
    if (size := chosen["left"]["held_out"]["size_bytes"]) < _BYTES_PER_TOKEN * context:
        number = _of(chosen, "documents")
        raise TooFewError(f"of {number} pages {size} bytes are held out, too few for a sequence of {context} tokens")


def _of(selection: dict[str, Any], what: str) -> int:
    return sum(side[what] for side in selection["left"].values())
