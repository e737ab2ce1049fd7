"""Facts: what a source's SQL says of each document of a shard, once, so that rounds need no annotation again.

The rows are those of the documents shard, in their order. The manifest has a digest for each column: a step depends on
the columns that it looks at, so another `good` trains nothing anew.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.database import in_words, open_shard, words_in
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.selection.rules import looks_at_others
from data_prep.storage import read_parquet
from data_prep.subset.settings import Source

FORMAT = "data_prep.subset.facts/1"
SELECTION = "selection"  # as SQL may name it


@dataclass(frozen=True)
class Question:
    """What is asked of every document: columns of facts -> SQL, and the name that messages give each."""

    source: str
    columns: Mapping[str, str]
    names: Mapping[str, str]
    validation: HeldOut

    @classmethod
    def of(cls, source: Source, score: str, validation: HeldOut, selected: bool) -> "Question":
        """Of a resolved source; with `selected`, only documents that the selection keeps are in it."""
        kept = f" AND {SELECTION}.dropped_by IS NULL" if selected else ""
        columns = {
            "inside": f"coalesce(({source.where})::BOOLEAN, false){kept}",
            "seed": f"coalesce(({source.seeds})::BOOLEAN, false)",
            "good": f"({source.good})::BOOLEAN",
            "new": f"coalesce(({source.new_positives.where})::BOOLEAN, false)",
            "score": f"CASE WHEN isfinite(({score})::DOUBLE) THEN ({score})::DOUBLE END",
        }
        names = dict(zip(columns, ["where", "seeds", "good", "new_positives.where", "score"], strict=True))
        for index, rule in enumerate(source.hard_negatives):
            columns[hard(index)] = f"coalesce(({rule.where})::BOOLEAN, false)"
            names[hard(index)] = f"hard_negatives {rule.name!r}"
        return cls(source.name, columns, names, validation)

    def words(self) -> set[str]:
        return words_in(self.columns.values())


def hard(index: int) -> str:
    """The column of a rule for hard negatives."""
    return f"hard_{index}"


def check(question: Question, shard: Path, beside: Mapping[str, Path]) -> None:
    """Raises `DataError` for what is no SQL about a single document and what stands beside it (view -> parquet)."""
    with open_shard(shard, beside) as (database, joined):
        for column, sql in question.columns.items():
            if others := looks_at_others(database, sql, beside):
                raise DataError(f"source {question.source!r}, {question.names[column]}: {others}")
        _ask(database, question, f"{joined} LIMIT 0", list(beside))


def write_facts(stream: BinaryIO, shard: Path, beside: Mapping[str, Path], question: Question) -> dict[str, Any]:
    """Shard function: `question`'s columns, `validation` (of a repository that is held out) and `size_bytes`.

    Counts documents and bytes inside of the source, and the lowest and highest score there.
    """
    documents = read_parquet(shard, ["repository", "size_bytes"], use_threads=False)
    with open_shard(shard, beside) as (database, joined):
        table = _ask(database, question, joined, list(beside))
    if not np.array_equal(table["_row"].to_numpy(), np.arange(documents.num_rows)):
        raise DataError("the database gave rows in another order, or other than the documents'; nothing was written")
    table = table.drop_columns(["_row"])
    held_out = {name: question.validation.holds_out(name) for name in documents["repository"].unique().to_pylist()}
    sides = pa.array([held_out[name] for name in documents["repository"].to_pylist()], pa.bool_())
    table = table.append_column("validation", sides).append_column("size_bytes", documents["size_bytes"])
    table = table.combine_chunks()
    pq.write_table(table, stream, compression="zstd")
    inside = table.filter(table["inside"])
    scores = inside["score"].drop_null().to_numpy()
    return {
        "rows": table.num_rows,
        "columns": {name: _digest(table[name]) for name in table.column_names},
        "documents": inside.num_rows,
        "size_bytes_inside": int(inside["size_bytes"].to_numpy().sum()),
        "scores": [float(scores.min()), float(scores.max())] if len(scores) else None,
    }


def _ask(database: duckdb.DuckDBPyConnection, question: Question, joined: str, known: Sequence[str]) -> pa.Table:
    """Columns of facts, and `_row`. Raises `DataError` naming the SQL that cannot be asked."""
    asked = ", ".join(f'({sql}) AS "{name}"' for name, sql in question.columns.items())
    try:
        return database.sql(f"SELECT {asked}, documents._row FROM {joined}").to_arrow_table()
    except duckdb.Error:
        for column, sql in question.columns.items():  # which one?
            try:
                database.sql(f"SELECT count(*) FILTER (({sql}) IS NOT NULL) FROM {joined}").fetchall()
            except duckdb.Error as error:
                said = in_words(error, [name for name in known if name != SELECTION])
                raise DataError(f"source {question.source!r}, {question.names[column]}: {said}") from None
        raise


def _digest(column: pa.ChunkedArray) -> str:
    """Of the values, whatever parquet makes of them."""
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    kind = np.float64 if pa.types.is_floating(array.type) else np.int64
    values = array.cast(pa.float64() if kind is np.float64 else pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return hashlib.sha256(np.packbits(valid).tobytes() + values.astype(kind).tobytes()).hexdigest()
