"""Commits (report, 2.2.2): a Git history as samples that ask for the change of a commit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full.github import REDACTED, packages_of
from launch.full.history import head_of, take_history
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.errors import SeedError

TRAINED_ON, HELD_OUT = "earlier", "later"
"""Selections: one history cannot be held out by repository, so its newest commits are."""
HELD_OUT_SHARE = 0.1
# Half of the defaults and less, as the contexts here are shorter than the report's; ours.
_SAMPLE = {
    "max_tokens": 4096,
    "message_tokens": 256,
    "readme_tokens": 256,
    "tree_tokens": 256,
    "file_tokens": 384,
}


def corpus_of(config: FullConfig) -> Path:
    return config.run_dir / "corpora" / "commits"


def prepare_commits(config: FullConfig, stages: Stages) -> dict[str, Any]:
    """A history to two selections of samples, `earlier` to train on and `later` held out; returns their numbers."""
    bare = config.run_dir / "sources" / "history.git"
    # One that the user names is followed; that of this checkout stays as it was.
    inputs = [str(config.history), config.commits, *([head_of(config.history)] if config.history else [])]
    history = stages.run(
        "history", inputs, lambda: take_history(bare, config.history, config.commits, packages_of(config)), made=bare
    )
    corpus = corpus_of(config)
    samples = stages.run(
        "commits", [inputs, history["head"], _SAMPLE], lambda: _prepare(config, bare, corpus), made=corpus
    )
    return {"history": history, **samples}


def _prepare(config: FullConfig, bare: Path, corpus: Path) -> dict[str, Any]:
    from data_prep.annotate import annotate
    from data_prep.annotators.base import AnnotatorSpec
    from data_prep.commits.reasons import REASONS
    from data_prep.commits.repositories import CommitSource
    from data_prep.commits.run import import_commits
    from data_prep.commits.settings import load_config

    # Stars and forks are not known of a history on a disk; the report asks for 100, 10, 100 commits and 100 days.
    criteria = {"min_stars": 0, "min_forks": 0, "min_commits": 0, "min_days": 0}
    settings = load_config(None, {"repositories": criteria, "sample": _SAMPLE, "shard_commits": 100})
    with bars() as progress:
        report = import_commits(corpus, [CommitSource(str(bare), "history")], settings, None, config.workers, progress)
        annotate(corpus, [AnnotatorSpec("secrets")], config.workers, progress=progress)
    since = _date_of_share(corpus, HELD_OUT_SHARE)
    selected = {
        TRAINED_ON: _select(config, corpus, TRAINED_ON, f"commits.date >= '{since}'"),
        HELD_OUT: _select(config, corpus, HELD_OUT, f"commits.date < '{since}'"),
    }
    return {
        "documents": report.documents,
        "text_bytes": report.text_bytes,
        "drops": {reason: {**drop, "meaning": REASONS[reason]} for reason, drop in report.drops.items()},
        "since": since,
        "selected": selected,
        "criteria": criteria,
        **_example(corpus, since),
    }


def _example(corpus: Path, since: str) -> dict[str, Any]:
    """The shortest held-out sample: its parts before and after the target begins, and what a model is asked with."""
    from data_prep.annotations import annotation_shard
    from data_prep.documents import list_shards
    from data_prep.report.excerpts import without_secrets
    from data_prep.storage import read_parquet

    best: tuple[int, str, int] | None = None
    for shard in list_shards(corpus):
        texts = read_parquet(shard, ["text"])["text"].to_pylist()
        facts = read_parquet(annotation_shard(corpus, "commits", shard), ["date", "target_start"]).to_pylist()
        for text, fact in zip(texts, facts, strict=True):
            if fact["date"].isoformat() >= since and (best is None or len(text) < best[0]):
                best = (len(text), text, fact["target_start"])
    if best is None:
        return {"example": None, "prompt": None}
    _, text, start = best
    given, target = without_secrets(text[:start]), without_secrets(text[start:])
    return {"example": {"given": given, "target": target}, "prompt": given}


def _date_of_share(corpus: Path, share: float) -> str:
    """The date from which on a share of the commits is."""
    from data_prep.annotations import annotation_shard
    from data_prep.documents import list_shards
    from data_prep.storage import read_parquet

    dates: list[datetime] = []
    for shard in list_shards(corpus):
        dates += read_parquet(annotation_shard(corpus, "commits", shard), ["date"])["date"].to_pylist()
    if len(dates) < 2 or min(dates) == max(dates):
        raise SeedError(f"{corpus}: {len(dates)} commits of one date cannot be split; give --history with more")
    dates.sort()
    at = dates[min(len(dates) - 1, int(len(dates) * (1 - share)))]
    return (at if at > dates[0] else next(date for date in dates if date > dates[0])).isoformat()


def _select(config: FullConfig, corpus: Path, name: str, drop: str) -> dict[str, Any]:
    from data_prep.select import SelectionConfig, select

    rules = [{"name": "other_side", "drop": drop}]
    asked = {"variant": None, "rules": rules, "held_out": {"fraction": 0}, "redact": REDACTED}
    with bars() as progress:
        made = select(corpus, name, SelectionConfig.model_validate(asked), progress, config.workers)
    return {"digest": made["digest"], **made["left"]["train"]}
