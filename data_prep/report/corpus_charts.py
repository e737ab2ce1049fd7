"""Charts of a corpus: scores, languages, how surely near duplicates are found."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from data_prep.report.charts import bare
from data_prep.report.formats import count, decimal
from data_prep.report.svg import DROP, HELD_OUT, INK, LEVEL, LINE, MUTED, TRAIN, render

MOST_LANGUAGES = 14
HISTOGRAMS = 12
_FATES = {"kept": (TRAIN, "kept"), "rule": (HELD_OUT, "dropped for this score"), "other": (DROP, "dropped otherwise")}


def score_chart(number: int, score: Mapping[str, Any]) -> dict[str, Markup]:
    """Documents by score, stacked by what became of them."""
    median = score["quantiles"][2]
    text = f"{count(score['documents'])} documents; median {decimal(median)}; {count(score['dropped'])} dropped for it."
    heights = {"wide": 300, "narrow": 270}
    return render(f"score-{number}", f"Documents by {score['column']}", text, heights, partial(_draw_score, score))


def _draw_score(score: Mapping[str, Any], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    top = _stack(axes, score["bins"], score["low"], score["high"])
    axes.set_xlim(score["low"], score["high"])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10))
    axes.yaxis.set_major_formatter(lambda value, _: count(value))
    axes.set_xlabel(score["column"])
    axes.set_ylabel("documents")
    columns = 1 if narrow else 3
    axes.legend(loc="upper left", ncols=columns, frameon=False, handlelength=1, handleheight=1, columnspacing=1.4)
    axes.set_ylim(0, top * (1.42 if narrow else 1.22))


def _stack(axes: Axes, bins: Mapping[str, Sequence[int]], low: float, high: float) -> float:
    """Bars of what became of documents, one upon the other; their greatest height, at least 1."""
    edges = np.linspace(low, high, len(bins["kept"]) + 1)
    below = np.zeros(len(edges) - 1)
    for fate, (colour, label) in _FATES.items():
        bars = np.array(bins[fate])
        if bars.any():
            width = (edges[1] - edges[0]) * 0.88
            axes.bar((edges[1:] + edges[:-1]) / 2, bars, width, bottom=below, color=colour, label=label)
            below += bars
    return max(1.0, below.max())


def histograms_chart(number: int, score: Mapping[str, Any]) -> dict[str, Markup] | None:
    """A small histogram for each of the largest languages. None for a single language."""
    languages = score["languages"][:HISTOGRAMS]
    if len(languages) < 2:
        return None
    text = "; ".join(f"{row['language']}: {count(row['documents'])} documents" for row in languages)
    heights = {"wide": 118 * -(-len(languages) // 4) + 14, "narrow": 118 * -(-len(languages) // 2) + 14}
    title = f"Documents by {score['column']}, for each language"
    return render(f"histograms-{number}", title, text, heights, partial(_draw_histograms, score, languages))


def _draw_histograms(score: Mapping[str, Any], languages: Sequence[Any], figure: Figure, narrow: bool) -> None:
    columns = 2 if narrow else 4
    grid = figure.subplots(-(-len(languages) // columns), columns, squeeze=False).ravel()
    for axes, entry in zip(grid, languages, strict=False):
        bare(axes)
        top = _stack(axes, entry["bins"], score["low"], score["high"])
        axes.set(xlim=(score["low"], score["high"]), ylim=(0, top * 1.05), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(f"{entry['language']}  {count(entry['documents'])}", loc="left", fontsize="medium", color=INK)
        axes.axhline(0, color=LINE, linewidth=1)
    for axes in grid[len(languages) :]:
        axes.set_axis_off()


def language_chart(number: int, score: Mapping[str, Any]) -> dict[str, Markup] | None:
    """Where the scores of each language lie. None for a single language."""
    languages = score["languages"][:MOST_LANGUAGES]
    if len(languages) < 2:
        return None
    text = "; ".join(f"{row['language']}: median {decimal(row['quantiles'][2])}" for row in languages)
    heights = {"wide": 26 * len(languages) + 44, "narrow": 40 * len(languages) + 44}
    title = f"{score['column']} by language"
    return render(f"languages-{number}", title, text, heights, partial(_draw_languages, score, languages))


def _draw_languages(score: Mapping[str, Any], languages: Sequence[Any], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.grid(axis="x", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    for row, entry in enumerate(languages):
        least, lower, median, upper, most = entry["quantiles"]
        axes.plot([least, most], [row, row], color=DROP, linewidth=2, solid_capstyle="round")
        axes.plot([lower, upper], [row, row], color=TRAIN, linewidth=8, solid_capstyle="butt")
        axes.plot([median], [row], color=INK, marker="o", markersize=6)
        if entry["highest_dropped"] is not None:
            axes.plot([entry["highest_dropped"]] * 2, [row - 0.32, row + 0.32], color=HELD_OUT, linewidth=2.5)
        if narrow:
            axes.text(score["low"], row - 0.4, f"{entry['language']} · {count(entry['documents'])}", va="center")
    labels = [] if narrow else [f"{entry['language']}  {count(entry['documents'])}" for entry in languages]
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlim=(score["low"], score["high"]), ylim=(len(languages) - 0.4, -0.75))
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10))


def near_chart(near: Mapping[str, Any]) -> dict[str, Markup]:
    """Above, how likely a pair is found by its similarity; below, which similarities were found."""
    whole = near["whole"]
    found = whole["found_at_threshold"]
    text = f"A pair at the threshold {whole['threshold']} is found with a probability of {found:.4f}."
    heights = {"wide": 320, "narrow": 320}
    return render("near", "How surely near duplicates are found", text, heights, partial(_draw_near, near))


def _draw_near(near: Mapping[str, Any], figure: Figure, narrow: bool) -> None:
    curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    whole, low = near["whole"], near["whole"]["threshold"]
    similarity = np.linspace(0, 1, 201)
    curve.plot(similarity, 1 - (1 - similarity ** whole["rows"]) ** whole["bands"], color=TRAIN, linewidth=2)
    counts = np.array(near["similarities"])
    edges = np.linspace(low, 1, len(counts) + 1)
    bars.bar((edges[1:] + edges[:-1]) / 2, counts, (1 - low) / len(counts) * 0.88, color=LEVEL)
    for axes in (curve, bars):
        bare(axes)
        axes.grid(axis="y", color=LINE, linewidth=1)
        axes.set_axisbelow(True)
        axes.axvline(low, color=HELD_OUT, linewidth=1.4, linestyle=(0, (5, 4)))
    curve.set_ylabel("found")
    curve.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    curve.set_yticks([0, 0.5, 1])
    curve.annotate("threshold ", (low, 0.06), ha="right", color=MUTED)
    bars.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bars.set_ylabel("documents")
    bars.set_xlim(0.0, 1.0)
    bars.set_xlabel("Jaccard similarity to the nearest other file")
