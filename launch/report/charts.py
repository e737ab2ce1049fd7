"""The chart of the page that shows training."""

import math
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from data_prep.report.charts import bare
from data_prep.report.svg import HELD_OUT, LINE, MUTED, TRAIN, render

Points = list[dict[str, Any]]


def loss_chart(training: dict[str, Any] | None) -> dict[str, Markup] | None:
    """Training and held-out loss over the unigram entropy, and the learning rate below. None without any loss."""
    training = training or {}
    curve, held_out = finite(training.get("curve")), finite(training.get("held_out"))
    named = [(name, points) for name, points in (("training", curve), ("held-out", held_out)) if points]
    if not named:
        return None
    text = "; ".join(
        f"{name} loss goes from {points[0]['loss']:.2f} to {points[-1]['loss']:.2f} nats per token"
        for name, points in named
    )
    draw = partial(_draw_loss, curve, held_out, training.get("unigram_entropy"))
    heights = {"wide": 440, "narrow": 400}
    return render("loss", "Loss and learning rate by tokens trained on", f"{text}.".capitalize(), heights, draw)


def finite(points: Points | None) -> Points:
    """Those with a loss."""
    return [point for point in points or () if point.get("loss") is not None and math.isfinite(point["loss"])]


def _draw_loss(curve: Points, held_out: Points, entropy: float | None, figure: Figure, narrow: bool) -> None:
    rates = [(point["tokens"], point["learning_rate"]) for point in curve if point.get("learning_rate") is not None]
    shares = [4, 1] if rates else [1]
    panels = figure.subplots(len(shares), 1, sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    for axes in panels:
        bare(axes)
        axes.grid(color=LINE, linewidth=1)
    _losses(panels[0], curve, held_out, entropy)
    if rates:
        peak = max(rate for _, rate in rates)
        panels[1].plot(*zip(*rates, strict=True), color=MUTED, linewidth=1.4, marker="o" if len(rates) == 1 else "")
        panels[1].set_ylabel("learning\nrate")
        panels[1].set_yticks(sorted({0, peak}), [f"{tick:.3g}" for tick in sorted({0, peak})])
        panels[1].set_ylim(0, (peak or 1) * 1.1)
        figure.align_ylabels()
    panels[-1].xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    panels[-1].set_xlabel("tokens trained on")


def _losses(axes: Axes, curve: Points, held_out: Points, entropy: float | None) -> None:
    line = {"color": TRAIN, "linewidth": 1.4, "marker": "o" if len(curve) == 1 else ""}
    dots = {"color": HELD_OUT, "linestyle": "", "marker": "o", "markersize": 7}
    for points, label, style in ((curve, "training", line), (held_out, "held out", dots)):
        if points:
            axes.plot([point["tokens"] for point in points], [point["loss"] for point in points], label=label, **style)
    if entropy is not None:
        axes.axhline(entropy, color=MUTED, linestyle=(0, (5, 4)), linewidth=1.2, label="unigram entropy")
    axes.set_ylabel("loss, nats per token")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, handlelength=1.4, columnspacing=1.1)
