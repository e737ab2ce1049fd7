"""How well a scorer does, as JSON and as an HTML page that needs nothing else."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from data_prep.report.charts import bare
from data_prep.report.environment import environment
from data_prep.report.formats import count
from data_prep.report.svg import LINE, MUTED, PAPER, TRAIN, render
from data_prep.scorer.measure import CLASSES
from data_prep.shards import write_atomic, write_json

_HEIGHTS = {"wide": 460, "narrow": 340}


def write_page(about: Mapping[str, Any], measured: Mapping[str, Any], folder: Path) -> Path:
    """Writes `report.json` and `report.html` into `folder`; returns the page. `measured`: see `measure`."""
    write_json(folder / "report.json", {**about, "measured": measured})
    page = environment(Path(__file__).parent).get_template("report.html.j2")
    html = page.render(about=about, measured=measured, box=box_plot(measured))
    write_atomic(folder / "report.html", lambda stream: stream.write(html.encode()))
    return folder / "report.html"


def box_plot(measured: Mapping[str, Any], name: str = "boxes") -> dict[str, Markup]:
    """What was predicted for each true score; `name` tells it from other charts of a page."""
    text = f"{count(measured['files'])} files; what was predicted for each true score, listed in the table."
    return render(name, "Predicted score by true score", text, _HEIGHTS, partial(_draw, measured["classes"]))


def _draw(classes: Mapping[int, Mapping[str, Any]], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.plot([0, 10], [0, 10], color=LINE, linewidth=1, zorder=0)
    boxes = [
        dict(zip(("whislo", "q1", "med", "q3", "whishi"), row["box"], strict=True)) | {"label": str(score)}
        for score, row in classes.items()
    ]
    line = {"color": MUTED, "linewidth": 1}
    axes.bxp(
        boxes,
        positions=[int(score) for score in classes],
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": PAPER, "edgecolor": TRAIN, "linewidth": 1},
        medianprops={"color": TRAIN, "linewidth": 2.5},
        whiskerprops=line,
        capprops=line,
    )
    ticks = list(CLASSES)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.grid(axis="y", color=LINE, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set(xlim=(-0.6, 10.6), ylim=(-0.3, 10.3), xlabel="score of the oracle", ylabel="predicted")
    axes.patch.set_facecolor(PAPER)
