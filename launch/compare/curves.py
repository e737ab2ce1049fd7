"""Numbers of runs as curves over tokens or FLOPs."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from launch.compare.read import Row, RunRecord

Axis = Literal["tokens", "flops"]
Points = list[tuple[float, float]]

_SMOOTH_SHARE = 0.02
_MOST_POINTS = 500


@dataclass(frozen=True)
class Curve:
    """One run's points, (x, y), in order of x."""

    run: int
    """Place of the run among those compared; decides its colour."""
    label: str
    points: Points
    raw: Points
    """What `points` was smoothed from; empty where nothing was."""


def train_curves(runs: Sequence[RunRecord], key: str, axis: Axis, *, smooth: bool = False) -> list[Curve]:
    """Of a number of training rows. Runs that never recorded it, or whose FLOPs are not known, are left out."""
    return _curves(runs, [run.train for run in runs], key, axis, smooth)


def evaluation_curves(runs: Sequence[RunRecord], source: str, key: str, axis: Axis) -> list[Curve]:
    return _curves(runs, [run.evaluation.get(source, ()) for run in runs], key, axis, False)


def last_smoothed(run: RunRecord, key: str, until_tokens: float = math.inf) -> float | None:
    """The smoothed value where the run stands, or stood at so many tokens."""
    points = [point for point in _points(run.train, key) if point[0] <= until_tokens]
    return smoothed(points, _window(run.train))[-1][1] if points else None


def tokens_at(run: RunRecord, flops: float) -> float | None:
    """Tokens of the last row that lies within so many FLOPs."""
    within = [tokens for tokens, spent in run.spent_flops if spent <= flops]
    return within[-1] if within else None


def smoothed(points: Points, window: int) -> Points:
    """Each y becomes the mean of the last `window` ones, its own included."""
    sums = [0.0, *accumulate(y for _, y in points)]
    return [
        (x, (sums[place + 1] - sums[max(0, place + 1 - window)]) / min(window, place + 1))
        for place, (x, _) in enumerate(points)
    ]


def thinned(points: Points) -> Points:
    """At most a few hundred points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _curves(
    runs: Sequence[RunRecord], rows: Sequence[Sequence[Row]], key: str, axis: Axis, smooth: bool
) -> list[Curve]:
    found = []
    for place, (run, own) in enumerate(zip(runs, rows, strict=True)):
        points = _points(own, key)
        if axis == "flops":
            points = _by_flops(run, points)
        if not points:
            continue
        line = smoothed(points, _window(own)) if smooth else points
        found.append(Curve(place, run.label, thinned(line), thinned(points) if smooth else []))
    return found


def _window(rows: Sequence[Row]) -> int:
    return max(1, round(len(rows) * _SMOOTH_SHARE))


def _points(rows: Sequence[Row], key: str) -> Points:
    def usable(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    return [(float(row["tokens"]), float(row[key])) for row in rows if usable(row.get(key))]


def _by_flops(run: RunRecord, points: Points) -> Points:
    spent = _interpolation(run.spent_flops)
    return [(spent(tokens), y) for tokens, y in points] if spent else []


def _interpolation(known: Points) -> Callable[[float], float] | None:
    """Straight lines between known points, from (0, 0), and on beyond the last."""
    if not known:
        return None
    tokens, flops = [0.0], [0.0]
    for at, spent in known:
        if at > tokens[-1]:
            tokens.append(at)
            flops.append(spent)
    if len(tokens) == 1:
        return None

    def at(where: float) -> float:
        place = min(max(1, bisect.bisect_left(tokens, where)), len(tokens) - 1)
        slope = (flops[place] - flops[place - 1]) / (tokens[place] - tokens[place - 1])
        return flops[place - 1] + slope * (where - tokens[place - 1])

    return at
