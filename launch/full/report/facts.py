"""What the page shows of each corpus, read from the corpora of a run: nothing in it is written down beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.oracle.prompt import load_prompt
from data_prep.report.charts import waterfall_chart
from data_prep.report.corpus_charts import language_chart, near_chart, score_chart
from data_prep.report.page import gather, write_report
from data_prep.report.source import open_source
from data_prep.report.waterfall import below_cap, waterfall
from data_prep.scorer.page import box_plot
from launch.full.report.charts import histogram_chart

EXAMPLES = 2
SEED = 1


def corpus_facts(
    number: int, corpus: Path, selection: str, quality: dict[str, Any] | None, annotation: str = "quality"
) -> dict[str, Any]:
    """All that a corpus's own page says, charts with names that are `number`'s, and what was said of its quality.

    Scores are those of an annotation.
    """
    scores = [f"{annotation}.score"] if quality else []
    found = gather(corpus, selection, EXAMPLES, SEED, workers=2, scores=scores)
    steps = waterfall(found["data"])
    score = found["scores"][0] if found["scores"] else None
    near = (found["duplicates"] or {}).get("near")
    return {
        **found,
        "steps": steps,
        "score": score,
        "quality": quality_facts(number, quality) if quality else None,
        "charts": {
            "waterfall": waterfall_chart(below_cap(steps), f"waterfall-{number}"),
            "score": score_chart(number, score) if score else None,
            "languages": language_chart(number, score) if score else None,
            "near": near_chart(near) if near and number == 0 else None,
        },
    }


def quality_facts(number: int, quality: dict[str, Any]) -> dict[str, Any]:
    """Oracle and scorer: histogram, prompt, measured errors, box plot."""
    oracle, scorer = quality["oracle"], quality["scorer"]
    title = "Ratings that the oracle gave"
    return {
        **quality,
        "prompt": load_prompt(oracle["prompt"]["name"]).template,
        "charts": {
            "histogram": histogram_chart(f"ratings-{number}", oracle["histogram"], title),
            "boxes": box_plot(scorer["measured"], f"boxes-{number}"),
        },
    }


def write_corpus_pages(run_dir: Path, corpora: dict[str, tuple[Path, str]]) -> dict[str, str]:
    """The page of each corpus in `pages/`, and where it lies, seen from the run folder."""
    links = {}
    for name, (corpus, selection) in corpora.items():
        path = run_dir / "pages" / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        write_report(corpus, path, selection, workers=2)
        links[name] = f"pages/{path.name}"
    return links


def site_kinds(corpus: Path, selection: str, annotation: str) -> list[dict[str, Any]]:
    """For each kind of site: pages, their median score, and how many were dropped for it."""
    with open_source(corpus, selection, 2) as source:
        return source.rows(
            f"""SELECT {annotation}.label AS kind, count(*) AS pages, median(quality.score)::DOUBLE AS median,
            count(*) FILTER (dropped_by = 'low_quality') AS dropped FROM {source.joined(annotation, "quality")}
            WHERE {annotation}.label IS NOT NULL GROUP BY 1 ORDER BY pages DESC, kind"""
        )
