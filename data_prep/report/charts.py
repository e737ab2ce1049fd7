"""Charts that reports share."""

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.report.formats import count, visible
from data_prep.report.svg import DROP, HELD_OUT, INK, LEVEL, PAPER, TRAIN, render
from data_prep.report.waterfall import Step

_BARS = {"level": LEVEL, "drop": DROP, "train": TRAIN, "held_out": HELD_OUT}
_LABEL_CHARACTERS = 32


def bare(axes: Axes) -> None:
    """Without ticks and frame."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def waterfall_chart(steps: Sequence[Step], name: str = "waterfall") -> dict[str, Markup] | None:
    """Bars of documents: every level from zero, every drop where it leaves the level before it. None without steps.

    `name` tells it from other charts of a page.
    """
    if not steps or not steps[0].documents:
        return None
    first, last = steps[0], steps[-1]
    text = f"From {count(first.documents)} {first.label} to {count(last.documents)} {last.label}; listed in the table."
    heights = {"wide": 26 * len(steps) + 12, "narrow": 42 * len(steps) + 12}
    return render(name, "What was found, dropped and kept", text, heights, partial(_draw_waterfall, steps))


def _draw_waterfall(steps: Sequence[Step], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
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
