"""One split for all selections of the code: what `kept` holds out is trained on by none, in whatever form.

A selection that holds repositories out by itself may choose others where it leaves more or fewer of them. Those that
are cut out of the code again therefore hold out nothing, and drop the other side by a rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sides:
    """Repositories that are held out, and what repeats one of their files: ids of equal ones, clusters of near ones."""

    repositories: tuple[str, ...]
    equal: tuple[str, ...]
    clusters: tuple[str, ...]

    def to_train(self) -> dict[str, str]:
        """The rule that drops what is held out, and what repeats it."""
        equal = f"coalesce(exact_dedup.duplicate_of, documents.id) IN {_listed(self.equal)}"
        near = f"coalesce(near_dedup.cluster IN {_listed(self.clusters)}, false)"
        drop = f"documents.repository IN {_listed(self.repositories)} OR {equal} OR {near}"
        return {"name": "held_out", "drop": drop}

    def to_hold_out(self) -> dict[str, str]:
        """The rule that drops what is not held out."""
        return {"name": "trained_on", "drop": f"documents.repository NOT IN {_listed(self.repositories)}"}


def sides_of(corpus: Path, selection: str) -> Sides:
    """What a selection holds out."""
    from data_prep.report.source import open_source

    with open_source(corpus, selection, 1) as source:
        held_out = "repository IN (SELECT repository FROM files WHERE split = 'held_out')"
        return Sides(
            _column(source.rows(f"SELECT DISTINCT repository AS it FROM files WHERE {held_out} ORDER BY 1")),
            _column(
                source.rows(
                    f"SELECT DISTINCT coalesce(duplicate_of, files.id) AS it FROM {source.joined('exact_dedup')} "
                    f"WHERE {held_out} ORDER BY 1"
                )
            ),
            _column(
                source.rows(
                    f"SELECT DISTINCT cluster AS it FROM {source.joined('near_dedup')} "
                    f"WHERE {held_out} AND cluster IS NOT NULL ORDER BY 1"
                )
            ),
        )


def _column(rows: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(row["it"] for row in rows)


def _listed(values: Iterable[str]) -> str:
    """SQL of a list; one that is empty holds nothing."""
    quoted = [f"'{value}'" for value in (value.replace("'", "''") for value in values)]
    return f"({', '.join(quoted) or 'NULL'})"
