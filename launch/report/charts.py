"""The charts of the page."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from launch.report.formats import count, visible
from launch.report.svg import DROP, HELD_OUT, INK, LEVEL, LINE, MUTED, PAPER, TRAIN, render
from launch.report.waterfall import Step

_BARS = {"level": LEVEL, "drop": DROP, "train": TRAIN, "held_out": HELD_OUT}
_LABEL_CHARACTERS = 32
Points = list[dict[str, Any]]


def waterfall_chart(steps: Sequence[Step]) -> dict[str, Markup] | None:
    """Bars of documents: every level from zero, every drop where it leaves the level before it. None without steps."""
    if not steps or not steps[0].documents:
        return None
    first, last = steps[0], steps[-1]
    text = f"From {count(first.documents)} {first.label} to {count(last.documents)} {last.label}; listed in the table."
    heights = {"wide": 26 * len(steps) + 12, "narrow": 42 * len(steps) + 12}
    return render("waterfall", "What was found, dropped and kept", text, heights, partial(_draw_waterfall, steps))


def _draw_waterfall(steps: Sequence[Step], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    _bare(axes)
    end = steps[0].documents
    least = end * (0.006 if narrow else 0.0025)  # so that a drop of one file can be seen
    for row, step in enumerate(steps):
        width = max(step.documents, least) if step.documents else 0
        axes.barh(row, width, left=step.start, height=0.36 if narrow else 0.62, color=_BARS[step.kind])
        _amount(axes, step, row, end)
        if narrow:
            axes.text(0, row - 0.42, _short(step.label), va="center")
    labels = [] if narrow else [_short(step.label) for step in steps]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks([])
    axes.set(xlim=(0, end * 1.004), ylim=(len(steps) - 0.5, -0.72 if narrow else -0.5))


def _short(label: str) -> str:
    shown = visible(label)
    return shown if len(shown) <= _LABEL_CHARACTERS else f"{shown[: _LABEL_CHARACTERS - 1]}…"


def _amount(axes: Axes, step: Step, row: int, end: int) -> None:
    """The number of a bar: after it, or where that would leave the chart, inside a long one or before a short one."""
    sign = "−" if step.kind == "drop" and step.documents else ""
    right, gap = step.start + step.documents, end * 0.01
    if right <= 0.75 * end:
        place, align, colour = right + gap, "left", INK
    elif step.kind != "drop" and step.documents > 0.3 * end:
        place, align, colour = right - gap, "right", PAPER
    else:
        place, align, colour = step.start - gap, "right", INK
    axes.text(place, row, sign + count(step.documents), ha=align, va="center_baseline", color=colour)


def loss_chart(training: dict[str, Any] | None) -> dict[str, Markup] | None:
    """Training and held-out loss over the unigram entropy, and the learning rate below. None without any loss."""
    training = training or {}
    curve, held_out = _finite(training.get("curve")), _finite(training.get("held_out"))
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


def _finite(points: Points | None) -> Points:
    return [point for point in points or () if point.get("loss") is not None and math.isfinite(point["loss"])]


def _draw_loss(curve: Points, held_out: Points, entropy: float | None, figure: Figure, narrow: bool) -> None:
    rates = [(point["tokens"], point["learning_rate"]) for point in curve if point.get("learning_rate") is not None]
    shares = [4, 1] if rates else [1]
    panels = figure.subplots(len(shares), 1, sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    for axes in panels:
        _bare(axes)
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


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
