"""A comparison of oracles, written as JSON and as an HTML page that needs nothing else."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_prep.report.charts import bare
from data_prep.report.environment import environment
from data_prep.report.formats import count
from data_prep.report.svg import INK, LINE, MUTED, PAPER, TRAIN, render
from data_prep.shards import write_atomic, write_json

_HEIGHTS = {"wide": 620, "narrow": 350}
_DARK = 0.55  # cells above this share of the fullest are written on in the colour of paper


def write_comparison(comparison: Mapping[str, Any], folder: Path) -> Path:
    """Writes `comparison.json` and `comparison.html` into `folder`; returns the page."""
    write_json(folder / "comparison.json", comparison)
    charts = [_heat_map(index, pair) for index, pair in enumerate(comparison["pairs"])]
    page = environment(Path(__file__).parent).get_template("comparison.html.j2")
    html = page.render(comparison=comparison, pairs=list(zip(comparison["pairs"], charts, strict=True)))
    write_atomic(folder / "comparison.html", lambda stream: stream.write(html.encode()))
    return folder / "comparison.html"


def _heat_map(index: int, pair: Mapping[str, Any]) -> dict[str, Markup]:
    text = f"{count(pair['files'])} files, by the score of {pair['first']} (rows) and of {pair['second']} (columns)."
    return render(f"heat-{index}", "Score by score", text, _HEIGHTS, partial(_draw, pair))


def _draw(pair: Mapping[str, Any], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    matrix = pair["matrix"]
    fullest = max(map(max, matrix))
    for row, counts in enumerate(matrix):
        for column, files in enumerate(counts):
            _cell(axes, row, column, files, fullest, narrow)
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [str(score) for score in ticks])
    axes.set_yticks(ticks, [str(score) for score in ticks])
    axes.set(xlim=(-0.5, len(matrix) - 0.5), ylim=(-0.5, len(matrix) - 0.5), aspect="equal")
    axes.set_anchor("W")
    axes.set(xlabel=f"score of {pair['second']}", ylabel=f"score of {pair['first']}")


def _cell(axes: Axes, row: int, column: int, files: int, fullest: int, narrow: bool) -> None:
    share = files / fullest
    place = (column - 0.47, row - 0.47)
    if files:
        axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor=TRAIN, alpha=0.1 + 0.9 * share, linewidth=0))
    else:
        axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor="none", edgecolor=LINE, linewidth=0.6))
    if row == column:
        axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor="none", edgecolor=MUTED, linewidth=1.4))
    if files:
        colour, size = PAPER if share > _DARK else INK, 7 if narrow else 12
        axes.text(column, row, _short(files), ha="center", va="center_baseline", color=colour, fontsize=size)


def _short(files: int) -> str:
    """At most four characters, so that it fits into a cell."""
    if files < 10_000:
        return str(files)
    return f"{files / 1e3:.0f}k" if files < 1_000_000 else f"{files / 1e6:.0f}M"
