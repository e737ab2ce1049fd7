"""The page of a comparison: no script, nothing loaded; runs keep their colour throughout."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data_prep.report.environment import environment
from data_prep.report.svg import RUNS
from data_prep.shards import write_atomic
from launch.compare.charts import Look, overlay, style_of
from launch.compare.curves import Curve, evaluation_curves, train_curves
from launch.compare.differences import differences
from launch.compare.read import Row, RunRecord
from launch.compare.summary import lines, tokenizers_differ

_EVENTS_SHOWN = 40
_TRAIN_LOOKS = (
    ("loss", Look("loss", "Training loss", "nats per token", beginning_may_leave=True)),
    ("learning_rate", Look("rate", "Learning rate", "", from_zero=True)),
    ("grad_norm", Look("norm", "Gradient norm", "before clipping", logarithmic=True)),
    ("tokens_per_second", Look("speed", "Speed", "tokens per second", from_zero=True)),
)
_SMOOTHED = ("loss", "grad_norm")
_AXES = ("tokens", "flops")


def write_page(runs: Sequence[RunRecord], path: Path) -> None:
    """Writes the page to `path`, whole or not at all. All text in the runs is taken as untrusted. Raises OSError."""
    page = render_page(runs).encode("utf-8")
    write_atomic(Path(path), lambda stream: stream.write(page))


def render_page(runs: Sequence[RunRecord]) -> str:
    page = (
        environment(Path(__file__).parent)
        .get_template("compare.html.j2")
        .render(
            runs=runs,
            colours=[RUNS.index(style_of(place)[0]) + 1 for place in range(len(runs))],
            dashes=[style_of(place)[1] != "solid" for place in range(len(runs))],
            differences=differences([run.config for run in runs]),
            figures=_figures(runs),
            without_flops=[run.label for run in runs if run.train and not run.spent_flops],
            lines=lines(runs),
            tokenizers_differ=tokenizers_differ(runs),
            events=_events(runs),
        )
    )
    return page.strip() + "\n"


def _figures(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Each chart over both axes, with its title and what is worth knowing about it."""
    key, look = _TRAIN_LOOKS[0]
    figures = [_figure(look, {axis: train_curves(runs, key, axis, smooth=True) for axis in _AXES})]
    measure, unit = ("bits_per_byte", "bits per byte") if tokenizers_differ(runs) else ("loss", "nats per token")
    for number, source in enumerate(dict.fromkeys(source for run in runs for source in run.evaluation)):
        held_out = Look(f"held-out-{number}", f"Held-out loss: {source}", unit, beginning_may_leave=True, dots=True)
        curves = {axis: evaluation_curves(runs, source, measure, axis) for axis in _AXES}
        figures.append(_figure(held_out, curves))
    for key, look in _TRAIN_LOOKS[1:]:
        figures.append(_figure(look, {axis: train_curves(runs, key, axis, smooth=key in _SMOOTHED) for axis in _AXES}))
    return [figure for figure in figures if any(figure["charts"].values())]


def _figure(look: Look, curves: dict[str, list[Curve]]) -> dict[str, Any]:
    charts: dict[str, dict[str, Markup] | None] = {axis: overlay(look, curves[axis], axis) for axis in _AXES}
    notes = []
    if any(curve.raw for curve in curves["tokens"]):
        notes.append("Bold: mean over the last 2 % of the rows; faint: as recorded.")
    if look.beginning_may_leave:
        notes.append("The beginning may lie outside.")
    return {"title": look.title, "unit": look.unit, "charts": charts, "note": " ".join(notes)}


def _events(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The newest events of all runs, newest first."""
    found = [(place, row) for place, run in enumerate(runs) for row in run.events]
    found.sort(key=lambda item: _number(item[1].get("time")), reverse=True)
    shown = [_event(place, row) for place, row in found[:_EVENTS_SHOWN]]
    return {"shown": shown, "left_out": len(found) - len(shown)}


def _event(place: int, row: Row) -> dict[str, Any]:
    facts = {name: value for name, value in row.items() if name not in ("kind", "step", "event", "time")}
    when = _number(row.get("time"))
    return {
        "run": place,
        "step": row.get("step"),
        "event": str(row.get("event", "")).replace("_", " "),
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when)) if 0 < when < 1e11 else "",
        "facts": "; ".join(
            f"{name.replace('_', ' ')}: {value if isinstance(value, str) else json.dumps(value)}"
            for name, value in facts.items()
        ),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
