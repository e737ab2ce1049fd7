"""The report of a subset: JSON, and an HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from data_prep.report.charts import bare
from data_prep.report.environment import environment
from data_prep.report.excerpts import excerpt, read_texts
from data_prep.report.formats import count, decimal
from data_prep.report.svg import DROP, LINE, MUTED, RUNS, TRAIN, render
from data_prep.shards import write_atomic, write_json

_HEIGHTS = {"wide": 320, "narrow": 300}
_BARS = 40  # of a distribution of scores
_MEANS = (("subset", "subset"), ("random", "random"), ("by_score", "highest by score"))
_GROUPS = (("all", DROP, "all of the source"), ("random", MUTED, "a random draw"), ("subset", TRAIN, "the subset"))


def write_page(report: Mapping[str, Any], shards: Sequence[Path], folder: Path) -> None:
    """Writes `report.json` and `report.html` into `folder`. Excerpts are read from the `shards`."""
    write_json(folder / "report.json", report)
    charts = [source_charts(index, source) for index, source in enumerate(report["sources"])]
    page = environment(Path(__file__).parent).get_template("report.html.j2")
    shown = list(zip(report["sources"], charts, _examples(report, shards), strict=True))
    html = page.render(report=report, sources=shown, is_doubtful=is_doubtful)
    write_atomic(folder / "report.html", lambda stream: stream.write(html.encode("utf-8", "replace")))


def _examples(report: Mapping[str, Any], shards: Sequence[Path]) -> list[list[dict[str, Any]]]:
    """For each source: when, kind, and examples with excerpts."""
    found = [
        [
            {"when": when, "kind": kind, "examples": examples}
            for when, of in _stages(source)
            for kind, examples in of.items()
            if examples
        ]
        for source in report["sources"]
    ]
    every = [example for source in found for group in source for example in group["examples"]]
    texts = read_texts(shards, [tuple(example["place"]) for example in every])
    for source in found:
        for group in source:
            group["examples"] = [
                {**example, "excerpt": excerpt(texts[tuple(example["place"])])} for example in group["examples"]
            ]
    return found


def source_charts(index: int, source: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """`curves` and `scores` of a source, each None where there is nothing to draw; `name` begins their names."""
    return {"curves": _curves(f"{name}curves-{index}", source), "scores": _scores(f"{name}scores-{index}", source)}


def _stages(source: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rounds = [(f"After round {round_['round']}", round_["examples"]) for round_ in source["rounds"]]
    return [("Before the first round", source["examples"]), *rounds]


def _curves(name: str, source: Mapping[str, Any]) -> dict[str, Markup] | None:
    if not any(round_["validation"]["curve"] for round_ in source["rounds"]):
        return None
    text = "; ".join(
        f"round {round_['round']}: average precision {decimal(round_['validation']['average_precision'])}"
        for round_ in source["rounds"]
    )
    return render(name, "Precision by recall", text, _HEIGHTS, partial(_draw_curves, source["rounds"]))


def _draw_curves(rounds: Sequence[Mapping[str, Any]], figure: Figure, narrow: bool) -> None:
    axes = _axes(figure)
    for colour, round_ in zip(RUNS * (1 + len(rounds) // len(RUNS)), rounds, strict=False):
        measured = round_["validation"]
        if measured["curve"]:
            recall, precision = np.array(measured["curve"]).T
            axes.plot(recall, precision, color=colour, linewidth=2, label=f"round {round_['round']}")
        if measured["precision"] is not None and measured["recall"] is not None:
            axes.plot(measured["recall"], measured["precision"], "o", color=colour, markersize=7)
    if (base := rounds[-1]["validation"]["base_rate"]) is not None:
        axes.axhline(base, color=MUTED, linewidth=1.2, linestyle=(0, (5, 4)))
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall of good documents", ylabel="precision")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower left", ncols=1 if narrow else 4, frameon=False)


def _scores(name: str, source: Mapping[str, Any]) -> dict[str, Markup] | None:
    spread = source["scores"]
    if not sum(spread["groups"]["all"]["bins"]):
        return None
    text = "; ".join(f"{label}: mean {decimal(spread['groups'][name]['mean_score'])}" for name, _, label in _GROUPS)
    return render(name, "Documents by score", text, _HEIGHTS, partial(_draw_scores, spread))


def _draw_scores(spread: Mapping[str, Any], figure: Figure, narrow: bool) -> None:
    axes = _axes(figure)
    edges = np.linspace(spread["low"], spread["high"], _BARS + 1)
    for name, colour, label in _GROUPS:
        bins = np.array(spread["groups"][name]["bins"]).reshape(_BARS, -1).sum(1)
        if bins.any():
            share = bins / bins.sum()
            axes.stairs(share, edges, color=colour, fill=name == "all", linewidth=2, label=label)
    axes.set_xlim(spread["low"], spread["high"])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10))
    axes.set(xlabel="score", ylabel="of the documents")
    axes.legend(loc="upper left", ncols=1 if narrow else 3, frameon=False)


def _axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    bare(axes)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    return axes


def is_doubtful(source: Mapping[str, Any]) -> bool:
    """Whether the last round may recall no more of what is good than a random draw would."""
    measured = source["rounds"][-1]["validation"]
    return measured["base_rate"] is not None and measured["precision_interval"][0] <= measured["base_rate"]


def describe(report: Mapping[str, Any]) -> list[str]:
    """What a run found, as lines to print."""
    recalled = report["recalled"]
    lines = [
        f"subset {report['name']}: {count(recalled['documents'])} of {count(report['documents'])} documents "
        f"({recalled['size_bytes'] / 1e6:,.2f} MB); {count(recalled['seeds'])} positives were trained on "
        f"({count(report['parts_made'])} of {count(report['parts'])} parts made now)"
    ]
    for source in report["sources"]:
        lines.append(f"  {source['name']}: {count(source['documents'])} documents")
        for round_ in source["rounds"]:
            measured = round_["validation"]
            shares = ", ".join(
                f"{name} {'–' if measured[key] is None else f'{100 * measured[key]:.1f} %'}"
                for name, key in (("precision", "precision"), ("recall", "recall"), ("base rate", "base_rate"))
            )
            lines.append(
                f"    round {round_['round']}: {count(round_['positives'])} positives, {count(round_['negatives'])} "
                f"negatives; {count(round_['recalled']['documents'])} recalled; {shares}; "
                f"{count(round_['found'])} new positives"
            )
        if is_doubtful(source):
            lines.append(
                "    what is recalled in held-out repositories is not surely better than a random draw: more seeds?"
            )
        groups = source["scores"]["groups"]
        means = [f"{label} {decimal(groups[name]['mean_score'])}" for name, label in _MEANS]
        lines.append(f"    mean score: {', '.join(means)}")
    lines += [f"  {name} left out: {why}" for name, why in report["left_out"].items()]
    return lines
