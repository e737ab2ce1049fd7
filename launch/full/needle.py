"""Needle in the code (report, 5): prompts that ask for a value hidden in long held-out code. Made, not yet asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full.github import KEPT, corpus_of
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.config.schema import Recipe

_LEAST_LENGTH = 512
_DEPTHS = (0, 25, 50, 75, 100)
_SAMPLES = 2
"""Of each length and depth; ours."""
_AROUND = 500
"""Characters of code that are shown on each side of a needle."""


def prepare_needles(config: FullConfig, recipe: Recipe, stages: Stages, made_of: list[Any]) -> dict[str, Any]:
    """Writes the grid for the contexts of the phases; returns its numbers, and one prompt around its needle.

    Where the held-out code is too little for it, `left_out` says so.
    """
    lengths = sorted({phase.sequence_length for phase in recipe.phases if phase.sequence_length >= _LEAST_LENGTH})
    return stages.run("needles", [made_of, lengths], lambda: _write(config, lengths))


def _write(config: FullConfig, lengths: list[int]) -> dict[str, Any]:
    from data_prep.errors import DataError
    from data_prep.needle.run import write_needles
    from data_prep.needle.settings import NeedleSettings

    out = config.run_dir / "needles"
    if not lengths:
        return {"left_out": f"no phase has a context of {_LEAST_LENGTH} tokens or more"}
    settings = NeedleSettings(lengths=tuple(lengths), depths=_DEPTHS, samples=_SAMPLES)
    try:
        with bars() as progress:
            about = write_needles(
                corpus_of(config), out, KEPT, config.run_dir / "tokenizer", settings, config.workers, progress
            )
    except DataError as error:
        return {"left_out": str(error)}
    return {"prompts": about["prompts"], "lengths": lengths, "depths": _DEPTHS, "example": _example(out, lengths[-1])}


def _example(out: Path, length: int) -> dict[str, Any]:
    """A prompt with its needle in the middle, what is around it, and its end, where the question stands."""
    rows = [json.loads(line) for line in (out / f"needle-{length}.jsonl").read_text(encoding="utf-8").splitlines()]
    row = min(rows, key=lambda row: (abs(row["depth"] - 50), row["index"]))
    prompt, start, end = row["prompt"], row["needle"]["start"], row["needle"]["end"]
    return {
        **{key: row[key] for key in ("length", "depth", "language", "tokens", "answer")},
        "before": prompt[max(0, start - _AROUND) : start],
        "needle": prompt[start:end],
        "after": prompt[end : end + _AROUND],
        "question": prompt[max(end + _AROUND, len(prompt) - _AROUND // 2) :],
    }
