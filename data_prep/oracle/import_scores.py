"""Scores that someone else has: a parquet table of documents' ids, or SHA-256s of texts, and scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.database import add_shards_view, open_database
from data_prep.documents import METADATA_COLUMNS, list_shards
from data_prep.errors import DataError
from data_prep.oracle.scores import MAXIMUM_SCORE, SCHEMA, histogram, oracle_directory, write_scores
from data_prep.shards import fingerprint, lock_directory

EXAMPLES = 5
KEYS = ("id", "sha256")


@dataclass(frozen=True)
class ImportedTable:
    """Where scores come from and what its columns mean.

    `out_of`: the best possible score there; scores are multiplied by 10 / `out_of`. `model` and `prompt_version` are
    said of all rows where the table has no columns of these names.
    """

    path: Path
    score_column: str = "score"
    out_of: float = MAXIMUM_SCORE
    model: str | None = None
    prompt_version: str | None = None


def import_scores(corpus: Path, name: str, source: ImportedTable, workers: int = 1) -> dict[str, Any]:
    """Writes `oracle/<name>/scores.parquet` from a table with a column `id` or `sha256`, or both; returns its manifest.

    With `sha256` alone a row counts for every document of that content. `unused` in the manifest counts rows that are
    left out, with examples: of documents that are not here (`unknown`), or whose text is another (`other_text`). Rows
    without a number, or with one outside 0 to `out_of`, become problems. Raises `DataError` for a table without these
    columns, one that scores a document twice and differently, or one of which no score is left.
    """
    corpus, directory = Path(corpus), oracle_directory(corpus, name)
    table = _read(source)
    with lock_directory(corpus), open_database(directory, workers) as database:
        shards = list_shards(corpus)
        add_shards_view(database, "documents", shards, ", ".join(METADATA_COLUMNS))
        database.register("_given", table)
        key = KEYS[0] if KEYS[0] in table.column_names else KEYS[1]
        both = set(KEYS) <= set(table.column_names)
        database.execute("CREATE TABLE given AS SELECT *, row_number() OVER () AS given_row FROM _given")
        database.execute(
            f"""CREATE TABLE joined AS SELECT documents.*, raw, model, prompt_version, given_row,
            {"documents.sha256 = given.sha256" if both else "true"} AS same_text
            FROM given JOIN documents ON documents.{key} = given.{key}"""
        )
        unused = _unused(database, key, table.num_rows)
        _refuse_conflicts(database, source)
        scores = _scores(database)
        if scores["score"].null_count == scores.num_rows:
            raise DataError(f"{source.path}: no score for a document of {corpus} (rows left out: {unused})")
        about = {
            "model": source.model,
            "imported_from": source.path.name,
            "out_of": source.out_of,
            "rows_in_table": table.num_rows,
            "unused": unused,
            "histogram": histogram(scores["score"]),
        }
        return write_scores(corpus, name, scores, fingerprint("imported", about), about)


def _read(source: ImportedTable) -> pa.Table:
    if not source.out_of > 0:
        raise DataError(f"scores out of {source.out_of}: it must be above 0")
    try:
        file = pq.ParquetFile(source.path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{source.path} is no parquet file that can be read: {str(error).splitlines()[0]}") from None
    with file:
        names = file.schema_arrow.names
        keys = [key for key in KEYS if key in names]
        if not keys or source.score_column not in names:
            raise DataError(
                f"{source.path}: columns id or sha256, and {source.score_column}, are expected (it has "
                f"{', '.join(names)})"
            )
        said = [name for name in ("model", "prompt_version") if name in names]
        table = file.read(columns=[*keys, source.score_column, *said])
    try:
        columns = {key: table[key].cast(pa.string()) for key in (*keys, *said)}
        scores = table[source.score_column].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{source.path}: ids must be text and scores numbers: {str(error).splitlines()[0]}") from None
    for name in {"model", "prompt_version"} - set(said):
        columns[name] = pa.array([getattr(source, name)] * table.num_rows, pa.string())
    scale = pa.scalar(MAXIMUM_SCORE / source.out_of, pa.float64())
    return pa.table({**columns, "raw": pc.multiply(scores, scale)})


def _unused(database: duckdb.DuckDBPyConnection, key: str, rows: int) -> dict[str, Any]:
    found = {}
    conditions = {
        "unknown": "given_row NOT IN (SELECT given_row FROM joined)",
        "other_text": "given_row IN (SELECT given_row FROM joined WHERE NOT same_text)",
    }
    for why, condition in conditions.items():
        where = f"FROM given WHERE {condition}"
        ((count,),) = database.execute(f"SELECT count(*) {where}").fetchall()
        examples = database.execute(f"SELECT {key} {where} ORDER BY 1 LIMIT {EXAMPLES}").fetchall()
        if count:
            found[why] = {"rows": count, "examples": [value for (value,) in examples]}
    database.execute("DELETE FROM joined WHERE NOT same_text")
    return found


def _refuse_conflicts(database: duckdb.DuckDBPyConnection, source: ImportedTable) -> None:
    found = database.execute(
        "SELECT id, any_value(path), min(raw), max(raw) FROM joined GROUP BY id "
        "HAVING count(DISTINCT coalesce(raw, -1)) > 1 ORDER BY 1"
    ).fetchall()
    if found:
        id_, path, low, high = found[0]
        raise DataError(
            f"{source.path}: {len(found)} documents have more than one score, such as {path} (id {id_}): "
            f"{low} and {high}"
        )


def _scores(database: duckdb.DuckDBPyConnection) -> pa.Table:
    number = "raw IS NOT NULL AND NOT isnan(raw)"
    inside = f"{number} AND raw BETWEEN 0 AND {MAXIMUM_SCORE}"
    query = f"""SELECT id, repository, path, language, size_bytes, sha256, false AS cut,
        CASE WHEN {inside} THEN raw::FLOAT END AS score,
        CASE WHEN NOT ({number}) THEN 'no_score' WHEN NOT ({inside}) THEN 'out_of_range' END AS problem,
        model, prompt_version
        FROM joined QUALIFY row_number() OVER (PARTITION BY id ORDER BY given_row) = 1 ORDER BY id"""
    return database.sql(query).to_arrow_table().cast(SCHEMA)
