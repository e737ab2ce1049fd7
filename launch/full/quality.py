"""Oracle, scorer and what is dropped for a low score: the same for code and for web pages (report, 2.2.1 and 2.2.3)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full import stand_in
from launch.full.settings import FullConfig
from launch.stages import Stages

QUALITY = "quality"
"""What ratings and scores are called."""
_TOLD = (
    "rows", "scored", "histogram", "labels", "problems", "examples", "model", "prompt", "input_tokens", "output_tokens",
)  # fmt: skip
HELD_OUT_SHARE = 0.2
"""Of the rated repositories, those that the scorer is measured on; ours, for a sample as small as this one."""


@dataclass(frozen=True)
class Sample:
    """What is rated: so many documents (of code in the report's proportions) out of a selection, under a prompt."""

    files: int
    selection: str | None
    prompt: str


def rate_and_score(
    config: FullConfig, stages: Stages, name: str, corpus: Path, made_of: str, sample: Sample
) -> dict[str, Any]:
    """Has a sample of a corpus rated, trains the linear scorer on it and scores every document.

    `made_of`: digest of what is sampled. Returns `oracle` (what the run of the oracle says), `scorer` (what was
    measured) and `digest` of the scores.
    """
    oracle = rate(config, stages, name, corpus, made_of, sample)
    return {"oracle": oracle, **learn_and_score(config, stages, name, corpus, oracle)}


def rate(
    config: FullConfig, stages: Stages, name: str, corpus: Path, made_of: str, sample: Sample, called: str = QUALITY
) -> dict[str, Any]:
    """Has a sample of a corpus rated; the scores are called `called`, as are those of `learn_and_score`."""
    asked = [made_of, vars(sample), config.oracle_url, config.oracle_model]
    return stages.run(f"{name} oracle", [asked, called], lambda: ask(config, corpus, called, sample))


def learn_and_score(
    config: FullConfig, stages: Stages, name: str, corpus: Path, oracle: dict[str, Any], called: str = QUALITY
) -> dict[str, Any]:
    """Trains the linear scorer on ratings and scores every document; `DataError` where the ratings are too few."""
    scorer = config.run_dir / "scorers" / name
    rated = [stages.key(f"{name} oracle"), oracle["digest"]]
    measured = stages.run(f"{name} scorer", rated, lambda: _train(corpus, called, scorer), made=scorer)
    scored = stages.run(f"{name} scores", [rated, measured["digest"]], lambda: _score(config, corpus, called, scorer))
    return {"scorer": measured, **scored}


@contextlib.contextmanager
def _endpoint(config: FullConfig) -> Iterator[dict[str, Any]]:
    """Settings of the oracle's endpoint: the user's, or the stand-in, served meanwhile."""
    if config.oracle_url:
        yield {"url": config.oracle_url, "api_key_env": config.oracle_key_env}
    else:
        with stand_in.serve() as url:
            yield {"url": url}


def ask(config: FullConfig, corpus: Path, name: str, sample: Sample) -> dict[str, Any]:
    """Has a sample of a corpus rated or labelled as the oracle's `name`; returns what its manifest says."""
    from data_prep.oracle.run import run_oracle
    from data_prep.oracle.settings import load_settings

    with _endpoint(config) as endpoint, bars() as progress:
        settings = load_settings(
            None,
            {
                "prompt": sample.prompt,
                "sample": {"files": sample.files, "selection": sample.selection},
                "request": {"model": config.oracle_model or stand_in.MODEL},
                "endpoint": endpoint,
                "keep_explanations": True,
            },
        )
        manifest = run_oracle(corpus, name, settings, progress, config.workers)
    return {
        **{key: manifest.get(key) for key in _TOLD},
        "languages": manifest["sample"]["languages"],
        "stand_in": config.oracle_url is None,
        "digest": manifest["sha256"],
    }


def _train(corpus: Path, oracle: str, out: Path) -> dict[str, Any]:
    from data_prep.scorer.base import scorer_digest
    from data_prep.scorer.train import MEASURED, train_scorer

    about = train_scorer(corpus, oracle, out, held_out=HELD_OUT_SHARE)
    report = json.loads((out.with_name(f"{out.name}.{MEASURED}") / "report.json").read_bytes())
    return {
        "digest": scorer_digest(out),
        "measured": report["measured"],
        **{key: about[key] for key in ("trained_on", "left_out", "fit")},
    }


def _score(config: FullConfig, corpus: Path, annotation: str, scorer: Path) -> dict[str, Any]:
    from data_prep.annotate import annotate
    from data_prep.scorer.base import scorer_digest
    from data_prep.scorer.quality import quality_spec

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // config.workers)))
    with bars() as progress:
        spec = quality_spec(corpus, annotation, scorer=str(scorer.resolve()))
        (result,) = annotate(corpus, [spec], config.workers, progress=progress)
    counts = {key: result[key] for key in ("documents", "failed", "failures")}
    return {**counts, "digest": scorer_digest(scorer)}
