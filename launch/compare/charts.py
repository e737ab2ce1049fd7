"""Curves of several runs in one chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from data_prep.report.formats import visible
from data_prep.report.svg import LINE, RUNS, render
from launch.compare.curves import Axis, Curve

_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))
_AXES = {"tokens": "tokens trained on", "flops": "FLOPs of training (causal)"}
_BEGINNING = 0.03


@dataclass(frozen=True)
class Look:
    """What a chart shows and how."""

    name: str
    title: str
    unit: str
    logarithmic: bool = False
    beginning_may_leave: bool = False
    """The scale is that of what follows the first few percent."""
    from_zero: bool = False
    dots: bool = False


def overlay(look: Look, curves: Sequence[Curve], axis: Axis) -> dict[str, Markup] | None:
    """All runs' curves over one axis, per width. None without any point."""
    if not curves:
        return None
    ends = "; ".join(f"{visible(curve.label)} ends at {curve.points[-1][1]:.4g}" for curve in curves)
    heights = {"wide": 330, "narrow": 300}
    draw = partial(_draw, look, curves, axis)
    return render(f"{look.name}-{axis}", f"{look.title} by {_AXES[axis]}", f"{ends}.", heights, draw)


def style_of(run: int) -> tuple[str, str | tuple[int, tuple[float, float]]]:
    """Colour and dashes of a run by its place; the ninth has the first's colour in other dashes."""
    return RUNS[run % len(RUNS)], _DASHES[run // len(RUNS) % len(_DASHES)]


def _draw(look: Look, curves: Sequence[Curve], axis: Axis, figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    axes.tick_params(length=0, which="both")
    axes.spines[:].set_visible(False)
    axes.grid(color=LINE, linewidth=1)
    if look.logarithmic and all(y > 0 for curve in curves for _, y in curve.points + curve.raw):
        axes.set_yscale("log")
    for curve in curves:
        colour, dashes = style_of(curve.run)
        if curve.raw:
            axes.plot(*zip(*curve.raw, strict=True), color=colour, linewidth=0.8, alpha=0.28)
        mark = "o" if look.dots or len(curve.points) == 1 else ""
        axes.plot(*zip(*curve.points, strict=True), color=colour, linewidth=1.6, linestyle=dashes, marker=mark,
                  markersize=4)  # fmt: skip
    _scale(axes, look, curves)
    axes.set_ylabel(look.unit)
    axes.set_xlabel(_AXES[axis])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" ") if axis == "tokens" else _power)
    axes.yaxis.set_major_formatter(EngFormatter(sep=" ") if look.from_zero and axes.get_ylim()[1] > 1 else _plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _scale(axes: Axes, look: Look, curves: Sequence[Curve]) -> None:
    if look.from_zero:
        axes.set_ylim(bottom=0)
    if not look.beginning_may_leave:
        return
    values = []
    for curve in curves:
        start = curve.points[-1][0] * _BEGINNING
        values += [y for x, y in curve.points if x >= start]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def _plain(value: float, _place: int | None = None) -> str:
    """0.0003 -> 3e-4, 10.0 -> 10."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e") if value >= 0.001 or not value else _power(value)


def _power(value: float, _place: int | None = None) -> str:
    """3e+18 -> 3e18."""
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.3g}e{exponent}"
