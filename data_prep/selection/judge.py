"""What a selection asks of single documents, shard by shard: the answers of every rule, before any is compared.

A documents shard and the annotations beside it have the same rows in the same order, so nothing is joined that is not
in one shard, and a shard's answers are made again only where it, an annotation of it, or what is asked has changed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.database import in_words, open_shard
from data_prep.errors import DataError
from data_prep.partitions import side_path, to_numpy, write_columns
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.selection.rules import Condition, looks_at_others
from data_prep.shards import fingerprint, write_atomic

FORMAT = "data_prep.judged/2"
NAMES, FAMILIES = "names.feather", "families.feather"  # no shards of their own, so with another ending
SECRETS = "secrets"  # the annotation that knows what to redact
KEY = pa.binary(16)


@dataclass(frozen=True)
class Questions:
    """What is asked of every document; as a task is given it."""

    selection: str
    """Its name, for messages."""
    conditions: tuple[Condition, ...]
    annotations: tuple[str, ...]
    redact: tuple[str, ...]
    memory_limit: str

    def identity(self) -> str:
        """Changes when answers do: with neither a rule's name nor the share of a `lowest`."""
        asked = [[rule.drops, rule.number, rule.per] for rule in self.conditions]
        return fingerprint(FORMAT, asked, self.annotations, self.redact)


def judge_shard(
    stream: BinaryIO, output: Path, shard: Path, beside: Mapping[str, Path], questions: Questions
) -> dict[str, Any]:
    """Shard function: id, repository (a row of the names beside), language, size, clusters, and what rules say.

    `alone_k`: whether rule k drops it. Of a `lowest` instead `number_k`, as uint64 that sort like the numbers, and
    `group_k`. Beside it are the names of its repositories and what families these are of.
    """
    with open_shard(shard, beside, questions.memory_limit) as (database, joined):
        try:
            table = database.sql(_query(database, joined, questions, list(beside))).to_arrow_table()
        except duckdb.Error:
            check_rules(database, joined, questions, "count(*) FILTER (({}) IS NOT NULL)")
            raise
    table = _in_order(table, shard)
    repositories, languages = (_encoded(table[name]) for name in ("repository", "language"))
    columns = {
        "id": table["id"],
        "repository": repositories.indices.cast(pa.uint32()),
        "language": languages.indices.cast(pa.uint16()),
        "size_bytes": table["size_bytes"],
        "equal_to": table["equal_to"].cast(KEY),
        "cluster": table["cluster"].cast(KEY),
    }
    for k, rule in enumerate(questions.conditions):
        if rule.drops:
            columns[f"alone_{k}"] = table[f"alone_{k}"]
        else:
            columns[f"number_{k}"] = _sort_keys(table[f"number_{k}"])
            columns[f"group_{k}"] = _group_keys(table[f"group_{k}"])
    if questions.redact:
        columns[REDACTIONS] = table[REDACTIONS]
    columns["id"] = columns["id"].cast(KEY)
    write_columns(stream, pa.table(columns))
    names = pa.table({"repository": repositories.dictionary})
    families = _families(table, columns["repository"])
    sides = {side_path(output, NAMES): names, side_path(output, FAMILIES): families}
    return {
        "rows": table.num_rows,
        "languages": "\n".join(languages.dictionary.to_pylist()),  # one string: all shards' are held at once
        "without": [table[f"number_{k}"].null_count if rule.number else None
                    for k, rule in enumerate(questions.conditions)],
        "kinds": [_kind(table[f"number_{k}"]) if not rule.drops else None
                  for k, rule in enumerate(questions.conditions)],
        "files": {path.name: asdict(write_atomic(path, lambda to, held=held: write_columns(to, held)))
                  for path, held in sides.items()},
    }  # fmt: skip


def check_rules(database: duckdb.DuckDBPyConnection, joined: str, questions: Questions, asked: str = "{}") -> None:
    """Raises `DataError` naming the rule that is no SQL, or that looks at more than one document."""
    for rule in questions.conditions:
        for query in rule.queries():
            try:
                if others := looks_at_others(database, query, questions.annotations):
                    raise DataError(
                        f"selection {questions.selection!r}, rule {rule.name!r}: {others}; a rule looks at one "
                        "document at a time (but see `lowest`): what depends on others is an annotation"
                    )
                limit = " LIMIT 0" if asked == "{}" else ""
                database.execute(f"SELECT {asked.format(query)} FROM {joined}{limit}").fetchall()
            except duckdb.Error as error:
                said = in_words(error, questions.annotations)
                raise DataError(f"selection {questions.selection!r}, rule {rule.name!r}: {said}") from None


def _query(database: duckdb.DuckDBPyConnection, joined: str, questions: Questions, views: Sequence[str]) -> str:
    exact, near, families = (
        name in questions.annotations for name in ("exact_dedup", "near_dedup", "repository_dedup")
    )
    aligned = " AND ".join(["true", *(f'"{view}"._row = documents._row' for view in views)])
    columns = ["documents._row AS _row", f"{aligned} AS _aligned", "unhex(documents.id) AS id"]
    columns += [f"documents.{name}" for name in ("repository", "language", "size_bytes")]
    columns.append(f"{'unhex(exact_dedup.duplicate_of)' if exact else 'NULL::BLOB'} AS equal_to")
    columns.append(f"{'unhex(near_dedup.cluster)' if near else 'NULL::BLOB'} AS cluster")
    if families:
        columns.append("repository_dedup.family AS family, repository_dedup.duplicate_of IS NULL AS kept")
    for k, rule in enumerate(questions.conditions):
        if rule.number:
            columns.append(f"{_exact_number(database, joined, rule.number)} AS number_{k}")
        if rule.drops:
            columns.append(f"coalesce(({rule.drops})::BOOLEAN, false) AS alone_{k}")
        else:
            columns.append(f"({rule.per})::VARCHAR AS group_{k}")
    if questions.redact:
        kinds = ", ".join(f"'{kind}'" for kind in questions.redact)
        spans = f"list_filter({SECRETS}.spans, lambda span: span.kind IN ({kinds}))"
        columns.append(f"CASE WHEN len({spans}) > 0 THEN {spans} END AS {REDACTIONS}")
    return f"SELECT {', '.join(columns)} FROM {joined}"


def _exact_number(database: duckdb.DuckDBPyConnection, joined: str, number: str) -> str:
    """Whole numbers as BIGINT, all others as DOUBLE."""
    (kind,) = database.sql(f"SELECT {number} FROM {joined}").types
    whole = str(kind) in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
    return f"({number})::{'BIGINT' if whole else 'DOUBLE'}"


def _kind(numbers: pa.ChunkedArray) -> str | None:
    return str(numbers.type) if numbers.null_count < len(numbers) else None


def _in_order(table: pa.Table, shard: Path) -> pa.Table:
    """Rows as they stand in the shard. Raises `DataError` where an annotation's stand otherwise."""
    table = table.combine_chunks()
    rows = to_numpy(table["_row"])
    if not np.array_equal(rows, np.arange(len(rows))):
        table = table.take(pa.array(np.argsort(rows, kind="stable")))
        rows = to_numpy(table["_row"])
    if not (pc.all(table["_aligned"], skip_nulls=False, min_count=0).as_py() and np.array_equal(
        rows, np.arange(len(rows))
    )):  # fmt: skip
        raise DataError(f"{shard}: annotations of it have other rows; make them again")
    return table


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.combine_chunks().dictionary_encode()


def _sort_keys(numbers: pa.ChunkedArray) -> pa.Array:
    """uint64 that sort as the numbers do; null stays null."""
    array = numbers.combine_chunks()
    values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    top = np.uint64(1 << 63)
    if pa.types.is_floating(array.type):
        bits = (values + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
        keys = np.where(bits & top, ~bits, bits | top)
    else:
        keys = values.view(np.uint64) ^ top
    return pa.array(keys, mask=array.is_null().to_numpy(zero_copy_only=False))


def group_key(value: str | None) -> bytes:
    """16 bytes for a value of `per`; null is a group of its own."""
    return bytes(16) if value is None else hashlib.sha256(value.encode()).digest()[:16]


def _group_keys(values: pa.ChunkedArray) -> pa.Array:
    array = values.combine_chunks().dictionary_encode(null_encoding="encode")
    keys = b"".join(map(group_key, array.dictionary.to_pylist()))
    return _fixed(keys).take(array.indices)


def _fixed(data: bytes, width: int = 16) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), len(data) // width, [None, pa.py_buffer(data)])


def _families(table: pa.Table, repositories: pa.Array) -> pa.Table:
    """Distinct repository, family (16 bytes of its hash) and whether the repository is kept in it."""
    if "family" not in table.column_names:
        empty = {"repository": pa.array([], pa.uint32()), "family": pa.array([], KEY), "kept": pa.array([], pa.bool_())}
        return pa.table(empty)
    found = pa.table({"repository": repositories, "family": table["family"], "kept": table["kept"]})
    found = found.filter(found["family"].is_valid())
    distinct = found.group_by(["repository", "family", "kept"], use_threads=False).aggregate([])
    return distinct.set_column(1, "family", _group_keys(distinct["family"]))
