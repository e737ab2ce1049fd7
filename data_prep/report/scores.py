"""Scores for a report: how they are spread, by language and by what became of documents, and what they look like."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_prep.errors import DataError
from data_prep.report.excerpts import add_excerpts
from data_prep.report.samples import columns, example
from data_prep.report.source import Source

FATES = ("kept", "rule", "other")
"""Kept; dropped by a rule that judges this score; dropped by another rule."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BANDS = 5
_FINE = 1000  # bins that quantiles are read from: exact to a thousandth of the range
_SCALES = ((0.0, 1.0), (0.0, 10.0), (0.0, 100.0))
_COLUMN = re.compile(r"[a-z][a-z0-9_]*\.[A-Za-z_]\w*")
_WAYS = ("below", "above", "lowest")


def score_columns(source: Source, asked: Sequence[str]) -> list[str]:
    """`annotation.column`s that are shown as scores: those asked for, else what rules judge, and `quality.score`.

    Raises `DataError` for one that is asked for and is no number.
    """
    for column in asked:
        if not _is_number(source, column):
            known = ", ".join(source.annotations) or "none"
            raise DataError(f"{source.corpus}: score {column!r} is no number of an annotation (annotations: {known})")
    judged = [rule[way]["of"] for rule in _rules(source) for way in _WAYS if rule.get(way)]
    found = asked or [column for column in ["quality.score", *judged] if _is_number(source, column)]
    return list(dict.fromkeys(found))


def _rules(source: Source) -> Sequence[Mapping[str, Any]]:
    return (source.selection or {}).get("config", {}).get("rules", ())


def _is_number(source: Source, column: str) -> bool:
    name, _, field = column.partition(".")
    if not _COLUMN.fullmatch(column) or name not in source.annotations or field not in source.schema(name).names:
        return False
    kind = source.schema(name).field(field).type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def score_report(source: Source, column: str, each: int, seed: int) -> dict[str, Any] | None:
    """How a column is spread: low, high, bins (fate -> documents of each), languages, quantiles, examples.

    Quantiles are those of `QUANTILES`. None where no document has a score.
    """
    name = column.partition(".")[0]
    (ends,) = source.rows(
        f'SELECT min({column}) AS low, max({column}) AS high FROM "{name}" WHERE isfinite({column}::DOUBLE)'
    )
    if ends["low"] is None:
        return None
    low, high = _scale(float(ends["low"]), float(ends["high"]))
    judging = [rule["name"] for rule in _rules(source) for way in _WAYS if rule.get(way) and rule[way]["of"] == column]
    dropped = "if(list_contains(?::VARCHAR[], dropped_by), 'rule', 'other')"
    fate = f"if(dropped_by IS NULL, 'kept', {dropped})"
    rows = source.rows(
        f"SELECT language, {fate} AS fate, least(floor(({column} - ?) / (? - ?) * {_FINE}), {_FINE - 1})::INT AS bin, "
        f"count(*) AS documents, sum({column})::DOUBLE AS total, max({column}) AS highest "
        f"FROM {source.joined(name)} WHERE isfinite({column}::DOUBLE) GROUP BY 1, 2, 3",
        [judging, low, high, low],
    )
    (missing,) = source.rows(
        f'SELECT count(*) AS n FROM "{name}" WHERE {column} IS NULL OR NOT isfinite({column}::DOUBLE)'
    )
    spread = _Spread(low, high)
    return {
        "column": column,
        "low": low,
        "high": high,
        "missing": missing["n"],
        "rules": judging,
        **spread.of(rows),
        "bins": spread.coarse(rows, 50),
        "languages": spread.languages(rows),
        "examples": _examples(source, column, low, high, each, seed),
    }


class _Spread:
    """Fine bins of a range, and what is read off them."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def of(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        counts = [0] * _FINE
        for row in rows:
            counts[row["bin"]] += row["documents"]
        documents = sum(counts)
        cut = [row["highest"] for row in rows if row["fate"] == "rule"]
        return {
            "documents": documents,
            "mean": sum(row["total"] for row in rows) / documents if documents else None,
            "quantiles": [self._quantile(counts, share) for share in QUANTILES],
            "dropped": sum(row["documents"] for row in rows if row["fate"] == "rule"),
            "highest_dropped": max(cut) if cut else None,
        }

    def coarse(self, rows: Sequence[Mapping[str, Any]], bins: int) -> dict[str, list[int]]:
        """Documents in each of so many bins, by what became of them."""
        counts = {fate: [0] * bins for fate in FATES}
        for row in rows:
            counts[row["fate"]][row["bin"] * bins // _FINE] += row["documents"]
        return counts

    def languages(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        by_language: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_language.setdefault(row["language"], []).append(row)
        found = [
            {"language": language, **self.of(group), "bins": self.coarse(group, 20)}
            for language, group in by_language.items()
        ]
        return sorted(found, key=lambda row: (-row["documents"], row["language"]))

    def _quantile(self, counts: Sequence[int], share: float) -> float:
        rank, seen = share * sum(counts), 0
        for index, count in enumerate(counts):
            if count and seen + count >= rank:
                return self.low + (self.high - self.low) * (index + (rank - seen) / count) / _FINE
            seen += count
        return self.high


def _scale(low: float, high: float) -> tuple[float, float]:
    """0 to 1, 10 or 100 where that fits, else what was found."""
    for least, most in _SCALES:
        if least <= low and high <= most and (high > most / 10 or most == 1):
            return least, most
    if low == high:
        return low - 0.5, high + 0.5
    digits = 10 ** (math.floor(math.log10(high - low)) - 1)
    # 1028 x 0.1 is above 102.8: what is rounded outwards is held against the ends.
    return min(low, math.floor(low / digits) * digits), max(high, math.ceil(high / digits) * digits)


def _examples(source: Source, column: str, low: float, high: float, each: int, seed: int) -> list[dict[str, Any]]:
    """From bands of equal width, lowest first: low, high, documents, examples drawn by a keyed hash."""
    band = f"least(floor(({column} - ?) / (? - ?) * {BANDS}), {BANDS - 1})::INT"
    key, joined = "sha256(? || ':' || files.id)", source.joined(column.partition(".")[0])
    counts = source.rows(
        f"SELECT {band} AS band, count(*) AS documents FROM {joined} WHERE isfinite({column}::DOUBLE) GROUP BY 1",
        [low, high, low],
    )
    rows = source.rows(
        f"SELECT {columns([column])}, {band} AS band FROM {joined} WHERE isfinite({column}::DOUBLE) "
        f"QUALIFY row_number() OVER (PARTITION BY band ORDER BY {key}, files.id) <= ? ORDER BY {column}, files.id",
        [low, high, low, f"{seed}:score", each],
    )
    width = (high - low) / BANDS
    found = [
        {"low": low + band * width, "high": low + (band + 1) * width, "documents": 0, "examples": []}
        for band in range(BANDS)
    ]
    for row in counts:
        found[row["band"]]["documents"] = row["documents"]
    for row in rows:
        found[row["band"]]["examples"].append(example(row, [column]))
    add_excerpts(source, [one for entry in found for one in entry["examples"]])
    return found
