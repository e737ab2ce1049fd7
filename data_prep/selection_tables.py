"""A selection's decisions, as tables of a database: which rule drops which document, and how much that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from data_prep.database import add_shards_view
from data_prep.documents import METADATA_COLUMNS
from data_prep.errors import DataError
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.selection_config import BOTH_SPLITS_RULE, SelectionConfig
from data_prep.selection_rules import Condition
from data_prep.storage import read_parquet_schema

SPLITS = ("train", "held_out")
SECRETS = "secrets"  # the annotation that knows what to redact
_BOTH_SPLITS = Condition(BOTH_SPLITS_RULE, "held out, and of one cluster with a file that is trained on", "false")


@dataclass(frozen=True)
class Tables:
    """A database and what a selection reads in it."""

    database: duckdb.DuckDBPyConnection
    name: str
    """Of the selection, for messages."""
    config: SelectionConfig
    conditions: Sequence[Condition]
    annotations: Mapping[str, Sequence[Path]]
    """Annotation -> its shards."""

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.database.execute(query, list(values)).fetchall()


def decide(tables: Tables, shards: Sequence[Path], answers: Mapping[str, Sequence[Path]]) -> None:
    """Makes the table `decided` and the view `left_over`, of those that no rule drops.

    `decided`: a row per document, with `dropped_by` (the first rule that drops it), and for rule k `alone_k` (it would
    drop the document if there were no other) and, where it looks at a number, `number_k`. `answers`: view -> shards of
    what a function said.
    """
    joined = _join(tables, shards, answers)
    _check(tables, joined)
    config, database = tables.config, tables.database
    exact, near = (name in tables.annotations for name in ("exact_dedup", "near_dedup"))
    columns = ["_shard", "_row", *(f"documents.{name}" for name in ("id", "repository", "language", "size_bytes"))]
    columns.append(f"{'exact_dedup.duplicate_of' if exact else 'NULL::VARCHAR'} AS _equal_to")
    columns.append(f"{'near_dedup.cluster' if near else 'NULL::VARCHAR'} AS _cluster")
    for k, rule in enumerate(tables.conditions):
        if rule.number:
            columns.append(f"{rule.number} AS number_{k}")
        if rule.drops:
            columns.append(f"coalesce(({rule.drops})::BOOLEAN, false) AS alone_{k}, alone_{k} AS _drops_{k}")
        else:
            columns.append(f"({rule.per})::VARCHAR AS _per_{k}, {rule.share} AS _share_{k}")
    if config.redact:
        kinds = ", ".join(f"'{kind}'" for kind in config.redact)
        spans = f"list_filter({SECRETS}.spans, lambda span: span.kind IN ({kinds}))"
        columns.append(f"CASE WHEN len({spans}) > 0 THEN {spans} END AS {REDACTIONS}")
    try:
        database.execute(f"CREATE TABLE judged AS SELECT {', '.join(columns)} FROM {joined}")
    except duckdb.Error:
        for rule in tables.conditions:  # which one?
            for query in rule.queries():
                _try(tables, rule.name, f"SELECT count(*) FILTER ({query} IS NOT NULL) FROM {joined}")
        raise
    for k, rule in enumerate(tables.conditions):
        if not rule.drops:
            _take_lowest(tables, k)
    cases = " ".join(f"WHEN _drops_{k} THEN '{rule.name}'" for k, rule in enumerate(tables.conditions))
    dropped_by = f"CASE {cases} END" if cases else "NULL::VARCHAR"
    database.execute(f"CREATE TABLE decided AS SELECT *, {dropped_by} AS dropped_by FROM judged")
    database.execute("DROP TABLE judged")
    database.execute("CREATE VIEW left_over AS FROM decided WHERE dropped_by IS NULL")
    if not tables.rows("SELECT 1 FROM left_over LIMIT 1"):
        counts = tables.rows("SELECT dropped_by, count(*) FROM decided GROUP BY 1 ORDER BY 2 DESC, 1")
        by_rule = ", ".join(f"{rule} dropped {count}" for rule, count in counts) or "the corpus has no documents"
        raise DataError(f"selection {tables.name!r}: nothing is left: {by_rule}")


def _join(tables: Tables, shards: Sequence[Path], answers: Mapping[str, Sequence[Path]]) -> str:
    """SQL of documents with their annotations."""
    add_shards_view(tables.database, "documents", shards, ", ".join(METADATA_COLUMNS))
    joined = "documents"
    for view, paths in {**tables.annotations, **answers}.items():
        columns = [f'"{column}"' for column in read_parquet_schema(paths[0]).names if column != "id"]
        add_shards_view(tables.database, view, paths, ", ".join(columns))
        joined += f' LEFT JOIN "{view}" USING (_shard, _row)'
    return joined


def _check(tables: Tables, joined: str) -> None:
    """Raises `DataError` naming the rule that is no SQL, or the annotation that the variant lacks."""
    for rule in tables.conditions:
        for query in rule.queries():
            _try(tables, rule.name, f"SELECT {query} FROM {joined} LIMIT 0")
    if lacking := [name for name in tables.config.annotations() if name not in tables.annotations]:
        variant = tables.config.variant
        raise DataError(f"selection {tables.name!r}, variant {variant}: there is no {lacking[0]}; run `data dedup`")


def _try(tables: Tables, rule: str, query: str) -> None:
    try:
        tables.rows(query)
    except duckdb.Error as error:
        known = ", ".join(tables.annotations) or "none"
        raise DataError(
            f"selection {tables.name!r}, rule {rule!r}: {str(error).splitlines()[0]} (columns: "
            f"{', '.join(METADATA_COLUMNS)}; annotations it names: {known}; `data dedup` makes exact_dedup, near_dedup "
            "and repository_dedup, `data annotate` others)"
        ) from None


def _take_lowest(tables: Tables, k: int) -> None:
    """Says of every document whether rule k drops it: after the rules before it, and alone."""
    before = " OR ".join(f"_drops_{earlier}" for earlier in range(k)) or "false"

    def lowest(group: str) -> str:
        place = f"row_number() OVER (PARTITION BY {group} ORDER BY number_{k}, id)"
        return f"{place} <= floor(count(*) OVER (PARTITION BY {group}) * _share_{k})"

    tables.database.execute(
        f"CREATE TABLE ranked AS SELECT _shard, _row, {lowest(f'_per_{k}, _share_{k}')} AS alone_{k}, "
        f"NOT _gone AND {lowest(f'_per_{k}, _share_{k}, _gone')} AS _drops_{k} "
        f"FROM (SELECT _shard, _row, id, number_{k}, _per_{k}, _share_{k}, {before} AS _gone FROM judged "
        f"WHERE number_{k} IS NOT NULL)"
    )
    tables.database.execute(
        f"CREATE TABLE more AS SELECT judged.* EXCLUDE (_per_{k}, _share_{k}), "
        f"coalesce(alone_{k}, false) AS alone_{k}, coalesce(_drops_{k}, false) AS _drops_{k} "
        "FROM judged LEFT JOIN ranked USING (_shard, _row)"
    )
    tables.database.execute("DROP TABLE judged; DROP TABLE ranked; ALTER TABLE more RENAME TO judged")


def find_families(tables: Tables) -> bool:
    """Makes the table `families` (repository, family, kept) where families are known."""
    if "repository_dedup" not in tables.annotations:
        return False
    tables.database.execute(
        "CREATE TABLE families AS SELECT DISTINCT repository, family, duplicate_of IS NULL AS kept "
        "FROM documents JOIN repository_dedup USING (_shard, _row) WHERE family IS NOT NULL"
    )
    return True


def drop_from_other_side(tables: Tables) -> None:
    """Drops what is held out and has an equal or near-equal file that is trained on."""
    if not {"exact_dedup", "near_dedup"} & set(tables.annotations):
        return
    tables.database.execute(
        """CREATE TABLE clustered AS
        SELECT left_over.id, held_out, coalesce(left_over._cluster, kept._cluster, kept.id, left_over.id) AS cluster
        FROM left_over JOIN sides ON sides.repository = left_over.repository
        LEFT JOIN decided AS kept ON kept.id = left_over._equal_to"""
    )
    tables.database.execute(
        """UPDATE decided SET dropped_by = ? WHERE id IN (
            SELECT id FROM clustered WHERE held_out AND cluster IN (SELECT cluster FROM clustered WHERE NOT held_out)
        )""",
        [BOTH_SPLITS_RULE],
    )


def waterfall(tables: Tables) -> dict[str, Any]:
    """Documents and bytes in, dropped by each rule in their order and alone, left for each split; all, and by language.

    Of a rule that looks at a number, `without`: the documents that have none, which it therefore does not judge.
    """
    split = "if(held_out, 'held_out', 'train')"
    amount = "count(*), coalesce(sum(size_bytes), 0)::BIGINT"
    kept = "left_over JOIN sides USING (repository)"
    rules = list(tables.conditions)
    if tables.rows("SELECT 1 FROM decided WHERE dropped_by = ? LIMIT 1", [BOTH_SPLITS_RULE]):
        rules.append(_BOTH_SPLITS)
    left = {side: {"repositories": 0, **_amount()} for side in SPLITS}
    for side, *counts in tables.rows(f"SELECT {split}, count(DISTINCT repository), {amount} FROM {kept} GROUP BY 1"):
        left[side] = dict(zip(left[side], counts, strict=True))
    languages = _by_language(tables, rules)
    for language, side, *counts in tables.rows(f"SELECT language, {split}, {amount} FROM {kept} GROUP BY 1, 2"):
        languages[language][side] = _amount(*counts)
    dropped = []
    for k, rule in enumerate(rules):
        rows = [entry["dropped"][rule.name] for entry in languages.values() if rule.name in entry["dropped"]]
        step = {"rule": rule.name, "drop": rule.text, **_sum(rows)}
        step["alone"] = None if rule is _BOTH_SPLITS else _sum([row["alone"] for row in rows])
        if rule.number:
            ((step["without"],),) = tables.rows(f"SELECT count(*) FROM decided WHERE number_{k} IS NULL")
        dropped.append(step)
    documents_in = _sum([entry["in"] for entry in languages.values()])
    return {"documents_in": documents_in, "dropped": dropped, "left": left, "languages": languages}


def _by_language(tables: Tables, rules: Sequence[Condition]) -> dict[str, dict[str, Any]]:
    """Language, largest first, -> in, train, held_out, and what each rule dropped where it would have dropped any."""

    def amount(condition: str) -> str:
        return f"count(*) FILTER ({condition}), coalesce(sum(size_bytes) FILTER ({condition}), 0)::BIGINT"

    columns = [amount("true")]
    for k, rule in enumerate(rules):
        columns.append(amount(f"dropped_by = '{rule.name}'"))
        columns.append(amount("false" if rule is _BOTH_SPLITS else f"alone_{k}"))
    query = f"SELECT language, {', '.join(columns)} FROM decided GROUP BY 1 ORDER BY 3 DESC, 1"
    languages: dict[str, dict[str, Any]] = {}
    for language, *numbers in tables.rows(query):
        every, *of_rules = (_amount(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
        entry: dict[str, Any] = {"in": every, **{side: _amount() for side in SPLITS}, "dropped": {}}
        for rule, ordered, alone in zip(rules, of_rules[::2], of_rules[1::2], strict=True):
            if ordered["documents"] or alone["documents"]:
                entry["dropped"][rule.name] = {**ordered, "alone": alone}
        languages[language] = entry
    return languages


def _amount(documents: int = 0, size_bytes: int = 0) -> dict[str, int]:
    return {"documents": documents, "size_bytes": size_bytes}


def _sum(amounts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(amount[key] for amount in amounts) for key in _amount()}
