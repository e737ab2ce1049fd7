"""The report of a corpus: one HTML page, no script, nothing loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_prep.report.annotated import annotated, lineage
from data_prep.report.charts import waterfall_chart
from data_prep.report.corpus_charts import MOST_LANGUAGES, histograms_chart, language_chart, near_chart, score_chart
from data_prep.report.duplicates import duplicates
from data_prep.report.environment import environment, parts
from data_prep.report.numbers import corpus_report
from data_prep.report.samples import draw
from data_prep.report.scores import score_columns, score_report
from data_prep.report.source import open_source
from data_prep.report.tiles import tiles
from data_prep.report.waterfall import below_cap, languages_of, waterfall
from data_prep.selection.places import selection_names
from data_prep.shards import write_atomic
from data_prep.storage import as_path

TOP_LANGUAGES = 12
TOP_REPOSITORIES = 10
TOP_MATCHES = 12


def write_report(
    corpus: Path,
    path: Path,
    selection: str | None = None,
    examples: int = 3,
    seed: int = 1,
    workers: int = 1,
    scores: Sequence[str] = (),
) -> None:
    """Writes the page of a corpus to `path`, whole or not at all. An equal corpus gives equal bytes.

    `selection`: its name; None: the only one there is. `examples`: documents for each rule and band of scores, drawn by
    `seed`. `scores`: columns such as `quality.score` that are shown as scores; none: those that rules judge. Raises
    `DataError`, `OSError`.
    """
    page = render_page(gather(as_path(corpus), selection, examples, seed, workers, scores)).encode("utf-8")
    write_atomic(Path(path), lambda stream: stream.write(page))


def gather(
    corpus: Path, selection: str | None, examples: int, seed: int, workers: int, scores: Sequence[str] = ()
) -> dict[str, Any]:
    """All that the page shows: what `corpus_report` says, and data from the annotations and examples."""
    names = selection_names(corpus)
    selection = selection or (names[0] if len(names) == 1 else None)
    data = corpus_report(corpus, selection, workers)
    with open_source(corpus, selection, workers) as source:
        shown = score_columns(source, scores)
        found = [score_report(source, column, examples, seed) for column in shown]
        return {
            "data": data,
            "selections": names,
            "encodings": source.rows("SELECT encoding, count(*) AS documents FROM files GROUP BY 1 ORDER BY 2 DESC, 1"),
            "duplicates": duplicates(source),
            **annotated(source),
            "scores": [score for score in found if score],
            "samples": draw(source, shown, examples, seed),
            "lineage": lineage(source, data["annotations"]),
        }


def render_page(facts: dict[str, Any]) -> str:
    """The page as text. All text in `facts` is taken as untrusted."""
    data, steps = facts["data"], waterfall(facts["data"])
    near = (facts["duplicates"] or {}).get("near")
    charts = {
        "waterfall": waterfall_chart(below_cap(steps)),
        "near": near_chart(near) if near else None,
        "scores": [
            {"all": score_chart(n, score), "spread": language_chart(n, score), "each": histograms_chart(n, score)}
            for n, score in enumerate(facts["scores"])
        ],
    }
    selection = data["selection"]
    template = environment(Path(__file__).parent).get_template("corpus.html.j2")
    page = template.render(
        **facts,
        name=Path(data["corpus"]).name,
        steps=steps,
        tiles=tiles(facts),
        charts=charts,
        most_languages=MOST_LANGUAGES,
        languages=parts(languages_of(data), TOP_LANGUAGES),
        rule_shares=parts(_rule_shares(selection), TOP_LANGUAGES),
        repositories=parts(data["repositories"], TOP_REPOSITORIES),
        matches=parts((facts["contamination"] or {}).get("matches", []), TOP_MATCHES),
        query=_query(selection),
    )
    return page.strip() + "\n"


def _rule_shares(selection: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Of each language, what each rule that dropped anything dropped of it: in order, and alone."""
    steps = (selection or {}).get("dropped", ())
    rules = [step["rule"] for step in steps if step["documents"] or (step["alone"] or {}).get("documents")]
    found = []
    for language, entry in (selection or {}).get("languages", {}).items() if rules else ():
        cells = [entry["dropped"].get(rule, {}) for rule in rules]
        kept = sum(entry[side]["documents"] for side in ("train", "held_out"))
        found.append({"name": language, "in": entry["in"]["documents"], "kept": kept, "cells": cells, "rules": rules})
    return found


def _query(selection: dict[str, Any] | None) -> str | None:
    """What a selection was asked for, as the YAML that would ask for it again; a line for each rule."""
    if not selection:
        return None
    lines = []
    for key, value in _without_empty(selection["config"]).items():
        if key == "rules":
            lines += ["rules:", *(f"  - {_flow(rule)}" for rule in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_empty(inner) for key, inner in value.items() if inner not in (None, {}, [])}
