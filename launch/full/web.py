"""Code-related web (report, 2.2.3): archives of pages to text that is good enough to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full.benchmarks import benchmark_files
from launch.full.github import REDACTED
from launch.full.pages import write_archives
from launch.full.quality import Sample, ask, rate_and_score
from launch.full.settings import FullConfig
from launch.stages import Stages

CODE, CATEGORY = "about_code", "category"
"""Annotations of the two classifiers."""
RATED, KEPT = "rated", "kept"
_LANGUAGE = "Web"
_NOT_RECALLED = {
    "name": "not_recalled",
    "drop": f"NOT coalesce(web.has_code, false) AND NOT coalesce({CODE}.recalled, false)",
}
# Few documents, so small sides; the shares of the split are ours.
_CLASSIFIER = {"minimum_train": 20, "minimum_evaluated": 3, "split": {"train": 0.6, "validation": 0.2}}


def corpus_of(config: FullConfig) -> Path:
    return config.run_dir / "corpora" / "web"


def archives_of(config: FullConfig) -> Path:
    return config.run_dir / "sources" / "pages"


def prepare_web(config: FullConfig, stages: Stages) -> dict[str, Any]:
    """Archives to the selection `kept`; returns the numbers of each step."""
    archives, corpus = archives_of(config), corpus_of(config)
    kinds = stages.run("pages", config.pages, lambda: write_archives(archives, config.pages), made=archives)
    pages = stages.run("web", [kinds, config.pages], lambda: _prepare(config, corpus), made=corpus / "import.json")
    asked = [pages["digest"], config.labelled_pages, config.oracle_url, config.oracle_model]
    recall = stages.run("web recall", asked, lambda: _classify(config, corpus, CODE, "web_recall"))
    categories = stages.run("web categories", asked, lambda: _classify(config, corpus, CATEGORY, "site_category"))
    inputs = [pages["digest"], recall["digest"], categories["digest"]]
    rated = stages.run("web candidates", inputs, lambda: _select_rated(config, corpus))
    sample = Sample(config.oracle_pages, RATED, "web", {_LANGUAGE: 1})
    quality = rate_and_score(config, stages, "web", corpus, rated["selected"], sample)
    chosen = stages.run("web selection", [inputs, quality["digest"]], lambda: _select_kept(config, corpus))
    return {"kinds": kinds, **pages, "recall": recall, "categories": categories, "quality": quality, **chosen}


def _prepare(config: FullConfig, corpus: Path) -> dict[str, Any]:
    from data_prep.web.run import WebSource, import_pages

    from data_prep.annotate import annotate
    from data_prep.annotators.base import AnnotatorSpec
    from data_prep.dedup.levels import deduplicate
    from data_prep.web.settings import load_config

    with bars() as progress:
        source = WebSource(str(archives_of(config).resolve()), "pages")
        report = import_pages(corpus, [source], load_config(), config.workers, progress)
        deduplicate(corpus, config.workers, progress, ("exact", "near"))
        specs = [AnnotatorSpec("page"), AnnotatorSpec("secrets")]
        specs.append(AnnotatorSpec.of("decontamination", benchmarks=benchmark_files(config.benchmarks)))
        annotate(corpus, specs, config.workers, progress=progress)
    from data_prep.documents import corpus_fingerprint

    return {"documents": report.documents, "text_bytes": report.text_bytes, "digest": corpus_fingerprint(corpus)}


def _classify(config: FullConfig, corpus: Path, name: str, prompt: str) -> dict[str, Any]:
    """Has a sample labelled, trains a fastText classifier on the labels, and asks it about every page."""
    from data_prep.classify.apply import apply_classifier
    from data_prep.classify.settings import load_config
    from data_prep.classify.train import train_classifier

    oracle = ask(config, corpus, name, Sample(config.labelled_pages, None, prompt, {_LANGUAGE: 1}))
    found = {"positive": "code", "recall": 0.99} if name == CODE else {}
    asked = load_config(None, {**_CLASSIFIER, "label": f"oracle_{name}.label", **found})
    out = config.run_dir / "classifiers" / name
    about = train_classifier(corpus, out, asked, config.workers)
    with bars() as progress:
        said = apply_classifier(corpus, out, name, config.workers, progress)
    keys = ("documents", "measured", "threshold", "positive", "labels")
    return {
        "oracle": oracle,
        "classifier": {key: about.get(key) for key in keys},
        "said": said,
        "digest": f"{oracle['digest']} {about['inputs']}",
    }


def _junk_rules() -> list[dict[str, Any]]:
    from data_prep.web.rules import JUNK_RULES

    return [rule.model_dump() for rule in JUNK_RULES]


def _config(more: list[dict[str, Any]]) -> Any:
    from data_prep.select import SelectionConfig

    contaminated = {"name": "contaminated", "drop": "decontamination.ngrams > 0"}
    rules = [*_junk_rules(), _NOT_RECALLED, contaminated, *more]
    held_out = {"fraction": 0.1, "minimum_repositories": 3}
    return SelectionConfig.model_validate({"variant": "file", "rules": rules, "redact": REDACTED, "held_out": held_out})


def _select_rated(config: FullConfig, corpus: Path) -> dict[str, Any]:
    """What quality is asked of: pages that are no junk and hold code tags or were recalled; one filter for both."""
    from data_prep.select import select

    with bars() as progress:
        made = select(corpus, RATED, _config([]), progress, config.workers)
    return {"selected": f"{made['digest']} {made['corpus_fingerprint']}"}


def _select_kept(config: FullConfig, corpus: Path) -> dict[str, Any]:
    from data_prep.select import select

    rule = {"name": "low_quality", "lowest": {"of": "quality.score", "share": 0.1, "per": f"{CATEGORY}.label"}}
    with bars() as progress:
        made = select(corpus, KEPT, _config([rule]), progress, config.workers)
    return {"kept": f"{made['digest']} {made['corpus_fingerprint']}", "dropped": made["dropped"], "left": made["left"]}
