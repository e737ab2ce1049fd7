"""Facts: what a source's SQL says of each document of a shard, once, so that rounds need no annotation again.

The rows are those of the documents shard, in their order. The manifest has a digest for each column: a step depends on
the columns that it looks at, so another `good` trains nothing anew.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import METADATA_COLUMNS, SCHEMA
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.storage import read_parquet, read_parquet_schema
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
        return {word for sql in self.columns.values() for word in re.findall(r"\w+", sql)}


def hard(index: int) -> str:
    """The column of a rule for hard negatives."""
    return f"hard_{index}"


def check(question: Question, schemas: Mapping[str, pa.Schema]) -> None:
    """Raises `DataError` for what is no SQL over these annotations."""
    empty = {name: schema.empty_table() for name, schema in schemas.items()}
    _answers(question, pa.schema([SCHEMA.field(name) for name in METADATA_COLUMNS]).empty_table(), empty)


def write_facts(stream: BinaryIO, shard: Path, annotations: Mapping[str, Path], question: Question) -> dict[str, Any]:
    """Shard function: `question`'s columns, `validation` (of a repository that is held out) and `size_bytes`.

    Counts documents and bytes inside of the source, and the lowest and highest score there.
    """
    documents = read_parquet(shard, METADATA_COLUMNS, use_threads=False)
    beside = {name: read_parquet(path, use_threads=False) for name, path in annotations.items()}
    for name, table in beside.items():
        if table.num_rows != documents.num_rows:
            raise DataError(f"annotation {name} has {table.num_rows} rows for {documents.num_rows} documents")
    table = _answers(question, documents, beside)
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


def schemas_of(annotations: Mapping[str, Sequence[Path]]) -> dict[str, pa.Schema]:
    return {name: read_parquet_schema(paths[0]) for name, paths in annotations.items() if paths}


def _joined(documents: pa.Table, annotations: Mapping[str, pa.Table]) -> pa.Table:
    """Documents with a column of structs for each annotation, so that SQL can say `annotation.column`."""
    for name, table in annotations.items():
        table = table.combine_chunks()
        columns = [table[column].combine_chunks() for column in table.column_names]
        documents = documents.append_column(name, pa.StructArray.from_arrays(columns, table.column_names))
    return documents


def _answers(question: Question, documents: pa.Table, annotations: Mapping[str, pa.Table]) -> pa.Table:
    """Columns of facts for each row. Raises `DataError` naming the SQL that cannot be asked."""
    table = _joined(documents, annotations)
    try:
        return _ask(table, question.columns)
    except duckdb.Error:
        for column, sql in question.columns.items():  # which one?
            try:
                _ask(table, {column: sql})
            except duckdb.Error as error:
                known = ", ".join(name for name in annotations if name != SELECTION) or "none"
                raise DataError(
                    f"source {question.source!r}, {question.names[column]}: {str(error).splitlines()[0]} (columns: "
                    f"{', '.join(METADATA_COLUMNS)}; annotations that it names: {known}; `data annotate` makes "
                    "structure and signs, `data score` quality)"
                ) from None
        raise


def _ask(documents: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """The SQL's answers for each row, in their order."""
    documents = documents.append_column("_row", pa.array(np.arange(documents.num_rows)))
    with duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False}) as connection:
        connection.register("documents", documents)
        asked = ", ".join(f'({sql}) AS "{name}"' for name, sql in columns.items())
        found = connection.sql(f"SELECT {asked}, _row FROM documents").to_arrow_table()
    if not np.array_equal(found["_row"].to_numpy(), np.arange(documents.num_rows)):
        raise DataError("the database gave rows in another order; nothing was written")
    return found.drop_columns(["_row"])


def _digest(column: pa.ChunkedArray) -> str:
    """Of the values, whatever parquet makes of them."""
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    kind = np.float64 if pa.types.is_floating(array.type) else np.int64
    values = array.cast(pa.float64() if kind is np.float64 else pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return hashlib.sha256(np.packbits(valid).tobytes() + values.astype(kind).tobytes()).hexdigest()
