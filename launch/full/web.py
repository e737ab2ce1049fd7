"""Code-related web (report, 2.2.3): archives of pages to text that is good enough to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.finish import bars
from launch.full.benchmarks import benchmark_files, benchmarks_digest
from launch.full.github import REDACTED
from launch.full.pages import write_archives
from launch.full.quality import Sample, ask, rate_and_score
from launch.full.settings import FullConfig
from launch.stages import Stages

CODE, MATHEMATICS, CATEGORY = "about_code", "about_mathematics", "category"
"""Annotations of the classifiers."""
RATED, KEPT = "rated", "kept"
# Ten words are the report's; what else is junk, and how much of it, is ours.
_RULES = (
    {"name": "few_words", "drop": "page.words < 10"},
    {"name": "repeated_lines", "drop": "page.repeated_line_share > 0.3"},
    {"name": "notice", "drop": "len(page.notices) > 0 AND page.words < 100"},
    {"name": "other_language", "drop": "page.natural_language <> 'en'"},
    {"name": "contaminated", "drop": "decontamination.ngrams > 0"},
    {"name": "not_searched_for_benchmarks", "drop": "decontamination.failed IS NOT NULL"},
)
_HELD_OUT = {"fraction": 0.15, "minimum_repositories": 3}
"""Sites, by a hash of their names; the same for each selection: none trains on a site that another holds out. Ours."""
_SUBJECTS = {CODE: "code", MATHEMATICS: "math"}
"""Classifiers that recall a subject -> the oracle's label of it."""
_FREQUENT = 60
"""Labelled pages of a kind of sites without which it counts as `other`; ours."""
# Few documents, so small sides; the shares of the split are ours.
_CLASSIFIER = {"minimum_train": 20, "minimum_evaluated": 3, "split": {"train": 0.6, "validation": 0.2}}


def corpus_of(config: FullConfig) -> Path:
    return config.run_dir / "corpora" / "web"


def archives_of(config: FullConfig) -> Path:
    return config.run_dir / "sources" / "pages"


def prepare_web(config: FullConfig, stages: Stages) -> dict[str, Any]:
    """Archives to scored pages; returns the numbers of each step."""
    archives, corpus = archives_of(config), corpus_of(config)
    kinds = stages.run("pages", config.pages, lambda: write_archives(archives, config.pages), made=archives)
    benchmarks = benchmarks_digest(config.benchmarks)
    inputs = [kinds, config.pages, benchmarks]
    pages = stages.run("web", inputs, lambda: _prepare(config, corpus), made=corpus / "import.json")
    pages = {**pages, "digest": f"{pages['digest']} {benchmarks}"}  # what is found of them is not in the documents
    asked = [pages["digest"], config.labelled_pages, config.oracle_url, config.oracle_model]
    recall = stages.run("web recall", asked, lambda: classify(config, corpus, CODE, "web_recall"))
    categories = stages.run("web categories", asked, lambda: classify(config, corpus, CATEGORY, "site_category"))
    inputs = [pages["digest"], recall["digest"], categories["digest"]]
    rated = stages.run("web candidates", inputs, lambda: pick(config, RATED, passing(recall)))
    sample = Sample(config.oracle_pages, RATED, "web")
    quality = rate_and_score(config, stages, "web", corpus, rated["selected"], sample)
    return {"kinds": kinds, **pages, "recall": recall, "categories": categories, "quality": quality}


def select_web(
    config: FullConfig, stages: Stages, pages: dict[str, Any], elsewhere: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The selection `kept` of what `prepare_web` returned; `elsewhere`: rules on pages that others take."""
    rules = [*elsewhere, lowest_tenth("quality.score", pages["categories"])]
    inputs = [pages["digest"], pages["recall"]["digest"], pages["categories"]["digest"], pages["quality"]["digest"]]
    return stages.run("web selection", [inputs, rules], lambda: pick(config, KEPT, passing(pages["recall"]), *rules))


def _prepare(config: FullConfig, corpus: Path) -> dict[str, Any]:
    from data_prep.annotate import annotate
    from data_prep.annotators.base import AnnotatorSpec
    from data_prep.dedup.levels import deduplicate
    from data_prep.documents import corpus_fingerprint
    from data_prep.web.run import WebSource, import_pages
    from data_prep.web.settings import load_config

    with bars() as progress:
        source = WebSource(str(archives_of(config).resolve()), "pages")
        report = import_pages(corpus, [source], load_config(), config.workers, progress)
        deduplicate(corpus, config.workers, progress, ("exact", "near"))
        specs = [AnnotatorSpec("page"), AnnotatorSpec("secrets")]
        specs.append(AnnotatorSpec.of("decontamination", benchmarks=benchmark_files(config.benchmarks)))
        annotate(corpus, specs, config.workers, progress=progress)
    return {"documents": report.documents, "text_bytes": report.text_bytes, "digest": corpus_fingerprint(corpus)}


def classify(config: FullConfig, corpus: Path, name: str, prompt: str) -> dict[str, Any]:
    """Has a sample labelled, trains a fastText classifier on the labels, and asks it about every page.

    Where there are too few pages or sites to train on, `classifier` is None and `left_out` says why.
    """
    from data_prep.classify.apply import apply_classifier
    from data_prep.classify.settings import load_config
    from data_prep.classify.train import train_classifier
    from data_prep.errors import DataError

    oracle = ask(config, corpus, name, Sample(config.labelled_pages, None, prompt))
    asked = load_config(None, {**_CLASSIFIER, **_labels(name, oracle["labels"])})
    out = config.run_dir / "classifiers" / name
    try:
        about = train_classifier(corpus, out, asked, config.workers)
    except DataError as error:
        return {"oracle": oracle, "classifier": None, "left_out": str(error), "digest": oracle["digest"]}
    with bars() as progress:
        said = apply_classifier(corpus, out, name, config.workers, progress=progress)
    found = {key: about.get(key) for key in ("documents", "measured", "threshold", "recall", "labels")}
    return {"oracle": oracle, "classifier": found, "said": said, "digest": f"{oracle['digest']} {about['inputs']}"}


def _labels(name: str, given: dict[str, int]) -> dict[str, Any]:
    """What a classifier learns of the oracle's labels: a subject to be recalled, or the frequent kinds of sites."""
    label = f"oracle_{name}.label"
    if name in _SUBJECTS:
        return {"label": label, "positive": _SUBJECTS[name], "recall": 0.99}
    frequent = ", ".join(f"'{kind}'" for kind, pages in given.items() if pages >= _FREQUENT and kind != "other")
    # A page that was not asked about has no label.
    return {"label": f"CASE WHEN {label} IN ({frequent or 'NULL'}) THEN {label} WHEN {label} <> '' THEN 'other' END"}


def passing(recall: dict[str, Any]) -> str:
    """SQL of which pages are about code. Without a classifier nothing is recalled: only pages with code tags pass."""
    recalled = f"coalesce({CODE}.recalled, false)" if recall["classifier"] else "false"
    return f"(coalesce(web.has_code, false) OR {recalled})"


def lowest_tenth(score: str, categories: dict[str, Any]) -> dict[str, Any]:
    """The rule that drops the lowest tenth of each kind of site, or of all where kinds could not be told apart."""
    per = f"{CATEGORY}.label" if categories["classifier"] else None
    return {"name": "low_quality", "lowest": {"of": score, "share": 0.1, "per": per}}


def pick(config: FullConfig, name: str, passes: str, *more: dict[str, Any]) -> dict[str, Any]:
    """Selects of the pages those that are no junk, no copies, and pass, as SQL says; `more` rules come last."""
    from data_prep.select import SelectionConfig, select

    # Exact and near duplicates; sites are no repositories, so nothing is asked of copies of whole ones.
    repeats = [
        {"name": "exact_duplicate", "drop": "exact_dedup.duplicate_of IS NOT NULL"},
        {"name": "near_duplicate", "drop": "near_dedup.duplicate_of IS NOT NULL"},
    ]
    rules = [*repeats, *_RULES, {"name": "not_recalled", "drop": f"NOT ({passes})"}, *more]
    asked = {"variant": None, "rules": rules, "redact": REDACTED, "held_out": _HELD_OUT}
    with bars() as progress:
        made = select(corpus_of(config), name, SelectionConfig.model_validate(asked), progress, config.workers)
    selected = f"{made['digest']} {made['corpus_fingerprint']}"
    return {"selected": selected, "dropped": made["dropped"], "left": made["left"]}
