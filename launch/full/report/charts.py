"""Charts of the page that no other page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from data_prep.report.charts import bare
from data_prep.report.formats import count
from data_prep.report.svg import HELD_OUT, INK, LEVEL, LINE, MUTED, RUNS, TRAIN, render
from launch.report.charts import finite

_SOURCES = dict(zip(("github", "infilling", "web", "commits", "repositories", "math_web"), RUNS, strict=False))
_SMOOTH_STEPS = 15


def loss_chart(training: Mapping[str, Any]) -> dict[str, Markup]:
    """Training loss and the learning rate, with the borders of the phases."""
    curve = finite(training["curve"])
    phases = training["phases"]
    text = "; ".join(f"{phase['name']} ends at {phase['loss']:.2f}" for phase in phases if phase["loss"] is not None)
    title, draw = "Training loss and learning rate by tokens", partial(_draw_loss, curve, phases)
    return render("loss", title, text, {"wide": 430, "narrow": 400}, draw)


def _draw_loss(
    curve: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]], figure: Figure, narrow: bool
) -> None:
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    tokens = [point["tokens"] for point in curve]
    values = [point["loss"] for point in curve]
    losses.plot(tokens, values, color=LINE, linewidth=1)
    losses.plot(tokens, _smooth(values), color=TRAIN, linewidth=1.8)
    losses.set_ylabel("loss, nats per token")
    rates.plot(tokens, [point["learning_rate"] for point in curve], color=MUTED, linewidth=1.4)
    rates.set_yscale("log")
    peaks = sorted({phase["learning_rate"] for phase in phases})
    rates.set_yticks(peaks, [f"{peak:.2g}" for peak in peaks])
    rates.set_yticks([], minor=True)
    rates.set_ylim(peaks[0] / 1.6, peaks[-1] * 1.5)
    rates.set_ylabel("learning\nrate")
    _finish(losses, rates, phases, narrow)
    figure.align_ylabels()


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of the last steps, as a line that can be followed."""
    windows = (values[max(0, end - _SMOOTH_STEPS) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _finish(top: Axes, bottom: Axes, phases: Sequence[Mapping[str, Any]], narrow: bool) -> None:
    """Grid, borders and names of the phases, and the axis of tokens."""
    for axes in (top, bottom):
        bare(axes)
        axes.grid(axis="y", color=LINE, linewidth=1)
        axes.set_axisbelow(True)
        for phase in phases[:-1]:
            axes.axvline(phase["tokens"], color=HELD_OUT, linewidth=1.2, linestyle=(0, (5, 4)))
    begin = 0
    for number, phase in enumerate(phases):
        middle = (begin + phase["tokens"]) / 2
        name = str(number + 1) if narrow else f"{number + 1} {phase['name'].replace('_', ' ')}"
        share = (phase["tokens"] - begin) / phases[-1]["tokens"]
        top.text(middle, 1.02, name if share > 0.15 else str(number + 1), transform=top.get_xaxis_transform(),
                 ha="center", va="bottom", color=INK)  # fmt: skip
        begin = phase["tokens"]
    bottom.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    bottom.xaxis.set_major_formatter(EngFormatter(sep=" "))
    bottom.set_xlabel("tokens trained on")


def held_out_chart(training: Mapping[str, Any]) -> dict[str, Markup] | None:
    """Held-out loss of every source by tokens."""
    points = finite(training["held_out"])
    if not points:
        return None
    names = list(dict.fromkeys(point["source"] for point in points))
    series = {name: [(p["tokens"], p["loss"]) for p in points if p["source"] == name] for name in names}
    text = "; ".join(f"{name}: {line[0][1]:.2f} to {line[-1][1]:.2f}" for name, line in series.items())
    draw = partial(_draw_held_out, series, training["phases"])
    return render("held-out", "Held-out loss by source", text, {"wide": 380, "narrow": 400}, draw)


def _draw_held_out(
    series: Mapping[str, Sequence[tuple[float, float]]],
    phases: Sequence[Mapping[str, Any]],
    figure: Figure,
    narrow: bool,
) -> None:
    axes = figure.subplots()
    for number, (name, line) in enumerate(series.items()):
        colour = _SOURCES.get(name, RUNS[number % len(RUNS)])
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.6, marker="o", markersize=3, label=name)
    axes.set_ylabel("loss, nats per token")
    axes.legend(loc="lower left", ncols=1 if narrow else 2, frameon=False)
    _finish(axes, axes, phases, narrow)


def histogram_chart(name: str, counts: Sequence[int], title: str) -> dict[str, Markup]:
    """How often each score from 0 to 10 was given."""
    text = f"{count(sum(counts))} ratings; listed: {', '.join(map(count, counts))}."
    return render(name, title, text, {"wide": 220, "narrow": 220}, partial(_draw_histogram, counts))


def _draw_histogram(counts: Sequence[int], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.bar(range(len(counts)), counts, 0.8, color=LEVEL)
    for score, number in enumerate(counts):
        if number:
            axes.text(score, number, count(number), ha="center", va="bottom", color=INK)
    axes.set_xticks(range(len(counts)))
    axes.set_yticks([])
    axes.set_ylim(0, max(counts, default=1) * 1.15)
    axes.set_xlabel("score that the oracle gave")
