"""The last numbers of each run, and those where all of them had got to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.report.formats import MISSING, count, decimal, duration, percent, size
from launch.compare.curves import last_smoothed, tokens_at
from launch.compare.read import RunRecord, is_finite
from launch.finish import seconds_of


@dataclass(frozen=True)
class Line:
    """One number of every run, as printed."""

    name: str
    values: tuple[str, ...]
    note: str = ""


def lines(runs: Sequence[RunRecord]) -> list[Line]:
    """The table of final numbers; what no run has is left out."""
    found = [
        _line(runs, "progress", _progress, "of its tokens"),
        _line(runs, "parameters", lambda run: amount(run.parameters)),
        _line(runs, "steps", lambda run: count(_last(run, "step"))),
        _line(runs, "tokens", lambda run: amount(_last(run, "tokens"))),
        _line(runs, "FLOPs", lambda run: _scientific(flops_of(run)), "causal attention"),
        _line(runs, "training loss", lambda run: decimal(last_smoothed(run, "loss"), 4), "nats per token, smoothed"),
        *_where_all_are(runs),
        *_held_out(runs),
        _line(runs, "tokens per second", lambda run: count(_median(run, "tokens_per_second")), "median"),
        _line(runs, "of one device", lambda run: count(_median(run, "tokens_per_second_per_device")), "median"),
        _line(runs, "MFU", lambda run: percent(_median(run, "mfu_causal")), "causal, median"),
        _line(runs, "step", lambda run: _seconds(_median(run, "step_seconds")), "median"),
        _line(runs, "time in steps", lambda run: duration(_spent(run))),
        _line(runs, "peak memory", lambda run: size(_highest(run, "peak_memory_bytes")), "of rank 0"),
        _line(runs, "updates left out", lambda run: count(sum(row.get("skipped") is True for row in run.train))),
        _line(runs, "events", lambda run: count(len(run.events))),
    ]
    return [line for line in found if set(line.values) != {MISSING}]


def amount(value: float | None) -> str:
    """1258291200000 -> 1,258.29 B; 8250462 -> 8.25 M; small ones whole."""
    if value is None or value < 1e6:
        return count(value)
    return f"{value / 1e9:,.2f} B" if value >= 1e9 else f"{value / 1e6:,.2f} M"


def flops_of(run: RunRecord) -> float | None:
    spent = run.spent_flops
    return spent[-1][1] if spent else None


def tokenizers_differ(runs: Sequence[RunRecord]) -> bool:
    """Then nats per token say little, and bits per byte compare."""
    tokenizers = {(run.model.vocab_size, str(run.config.get("tokenizer"))) for run in runs if run.model}
    return len(tokenizers) > 1


def _line(runs: Sequence[RunRecord], name: str, value: Callable[[RunRecord], str], note: str = "") -> Line:
    return Line(name, tuple(value(run) for run in runs), note)


def _where_all_are(runs: Sequence[RunRecord]) -> list[Line]:
    """Training loss at the tokens, and at the FLOPs, to which every run with steps has got."""
    begun = [run for run in runs if run.train]
    if len(begun) < 2:
        return []
    tokens = min(run.train[-1]["tokens"] for run in begun)
    found = [
        _line(runs, f"training loss at {amount(tokens)} tokens", lambda run: _loss_at(run, tokens), "where all are")
    ]
    flops = [flops_of(run) for run in begun]
    if None not in flops:
        common = min(flops)
        name = f"training loss at {_scientific(common)} FLOPs"
        found.append(_line(runs, name, lambda run: _loss_at(run, tokens_at(run, common)), "where all are"))
    return found


def _loss_at(run: RunRecord, tokens: float | None) -> str:
    return decimal(None if tokens is None else last_smoothed(run, "loss", tokens), 4)


def _held_out(runs: Sequence[RunRecord]) -> list[Line]:
    found = []
    for source in dict.fromkeys(source for run in runs for source in run.evaluation):
        for key, unit in (("loss", "nats per token"), ("bits_per_byte", "bits per byte")):
            values = tuple(decimal(_last_evaluation(run, source, key), 4) for run in runs)
            found.append(Line(f"held-out {source}", values, unit))
    return found


def _last_evaluation(run: RunRecord, source: str, key: str) -> float | None:
    values = [row[key] for row in run.evaluation.get(source, ()) if is_finite(row.get(key))]
    return values[-1] if values else None


def _progress(run: RunRecord) -> str:
    tokens, budget = _last(run, "tokens"), run.budget_tokens
    if tokens is None:
        return "not begun"
    if not budget:
        return MISSING
    return "complete" if tokens >= budget else percent(tokens / budget)


def _last(run: RunRecord, key: str) -> Any:
    return run.train[-1].get(key) if run.train else None


def _numbers(run: RunRecord, key: str) -> list[float]:
    return [row[key] for row in run.train if is_finite(row.get(key))]


def _median(run: RunRecord, key: str) -> float | None:
    values = _numbers(run, key)
    return statistics.median(values) if values else None


def _highest(run: RunRecord, key: str) -> float | None:
    return max(_numbers(run, key), default=None)


def _spent(run: RunRecord) -> float | None:
    """Seconds of all steps from the first row on: what is before that is another run's, or not known."""
    if not run.train or not all(is_finite(row.get("step_seconds")) for row in run.train):
        return None
    return seconds_of(run.train, run.train[0]["step"] - 1)


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g} s"


def _scientific(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3e}".replace("e+", "e")
