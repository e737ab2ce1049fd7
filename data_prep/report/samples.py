"""Documents to look at: what each rule dropped beside what was kept, drawn by a keyed hash."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.report.excerpts import add_excerpts
from data_prep.report.source import Source

# What a rule on duplicates names -> what stands beside a document that it drops.
_SAME_PATH = "source || '/' || repository = keeper AND path = its_path"
_REPEATS = {
    "exact_dedup.duplicate_of": "files.id = keeper",
    "near_dedup.duplicate_of": "files.id = keeper",
    "exact_dedup.repository_duplicate_of": _SAME_PATH,
    "repository_dedup.duplicate_of": _SAME_PATH,
}
_KEY = "sha256(? || ':' || id)"


def columns(scores: Sequence[str]) -> str:
    """SQL of what is said of an example; `scores` are columns of annotations."""
    own = (
        "_shard",
        "_row",
        "files.id",
        "source",
        "repository",
        "path",
        "language",
        "size_bytes",
        "split",
        "dropped_by",
    )
    return ", ".join([*own, *(f"{column} AS score_{index}" for index, column in enumerate(scores))])


def example(row: Mapping[str, Any], scores: Sequence[str]) -> dict[str, Any]:
    """A row of `columns` as a page shows it."""
    keys = ("id", "source", "repository", "path", "language", "size_bytes", "split", "dropped_by")
    values = {name: row[f"score_{index}"] for index, name in enumerate(scores)}
    return {**{key: row[key] for key in keys}, "place": (row["_shard"], row["_row"]), "scores": values}


def draw(source: Source, scores: Sequence[str], each: int, seed: int) -> list[dict[str, Any]]:
    """For each rule: rule, drop, and pairs (dropped, kept): at most `each`, as examples with excerpts.

    A duplicate stands beside the document that it is a duplicate of, everything else beside a kept document of the same
    language. Which are drawn depends on the seed and the documents' ids alone.
    """
    if not source.selection or not each:
        return []
    dropped = _dropped(source, scores, each, seed)
    kept = _kept(source, scores, sum(map(len, dropped.values())), seed)
    found = []
    for step in source.selection["dropped"]:
        rows = dropped.get(step["rule"], [])
        if not rows:
            continue
        originals = _originals(source, scores, step["drop"], rows)
        pairs = [
            {"dropped": row, "kept": originals.get(row["id"]) or next(kept.get(row["language"], iter(())), None)}
            for row in rows
        ]
        found.append({**step, "pairs": pairs})
    shown = [one for rule in found for pair in rule["pairs"] for one in pair.values() if one]
    add_excerpts(source, shown)
    return found


def _dropped(source: Source, scores: Sequence[str], each: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    rows = source.rows(
        f"SELECT {columns(scores)} FROM {source.joined(*_annotations_of(scores))} WHERE dropped_by IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY dropped_by ORDER BY {_KEY}, id) <= ? ORDER BY {_KEY}, id",
        [f"{seed}:dropped", each, f"{seed}:dropped"],
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["dropped_by"], []).append(example(row, scores))
    return found


def _kept(source: Source, scores: Sequence[str], most: int, seed: int) -> dict[str, Iterator[dict[str, Any]]]:
    rows = source.rows(
        f"SELECT {columns(scores)} FROM {source.joined(*_annotations_of(scores))} WHERE dropped_by IS NULL "
        f"QUALIFY row_number() OVER (PARTITION BY language ORDER BY {_KEY}, id) <= ? ORDER BY {_KEY}, id",
        [f"{seed}:kept", most, f"{seed}:kept"],
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["language"], []).append(example(row, scores))
    return {language: iter(examples) for language, examples in found.items()}


def _originals(
    source: Source, scores: Sequence[str], drop: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Duplicate's id -> the document that it repeats, where that is what the rule is about.

    Of a document in a repository that repeats another one, the document with the same path there, if there is one.
    """
    column, same = next(((column, same) for column, same in _REPEATS.items() if column in drop), ("", ""))
    annotation = column.partition(".")[0]
    if annotation not in source.annotations:
        return {}
    chosen = " OR ".join("(_shard = {} AND _row = {})".format(*row["place"]) for row in rows)
    repeated = f"SELECT files.id AS repeated, path AS its_path, {column} AS keeper FROM {source.joined(annotation)}"
    found = source.rows(
        f"SELECT repeated, {columns(scores)} FROM {source.joined(*_annotations_of(scores))} "
        f"JOIN ({repeated} WHERE {chosen}) AS dropped ON {same} ORDER BY repeated, files.id"
    )
    return {row["repeated"]: example(row, scores) for row in found}


def _annotations_of(scores: Sequence[str]) -> list[str]:
    return [score.partition(".")[0] for score in scores]
