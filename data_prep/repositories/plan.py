"""Which repositories become strings: a query over documents' metadata, a selection and scores; no text is read.

A repository belongs to the shard in which its first file stands, and imports write repositories one after the other, so
a task for each such shard reads little besides that shard.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.annotations import annotation_names, current_annotation, write_table
from data_prep.database import add_shards_view, open_database
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.repositories.settings import RepositorySettings
from data_prep.selection.places import selection_shard
from data_prep.shards import ShardTask, write_shard
from data_prep.storage import read_parquet_schema

COLUMNS = ("source", "repository", "path", "shard", "row", "score")


@dataclass(frozen=True)
class Planned:
    """The repositories of one documents shard: a table with `COLUMNS`, a row per file, files of one together."""

    home: Path
    table: Path
    digest: str
    shards: tuple[int, ...]
    """Of the corpus, those that the files stand in."""


def plan(
    corpus: Path, selection: str, settings: RepositorySettings, folder: Path, workers: int
) -> tuple[list[Planned], dict[str, Any]]:
    """Writes a table of files for each shard that repositories begin in, and returns them with what was counted.

    Counted: `repositories` and `files` of the selection's split, `left_out` (why -> repositories), `chosen`, `mean`
    (lowest, median and highest mean score of what was chosen, where there are scores). Raises `DataError`.
    """
    shards = list_shards(corpus)
    with open_database(corpus, workers) as database:
        _gather(database, corpus, selection, settings, shards)
        _judge(database, settings)
        counts = _counts(database)
        if not counts["chosen"]:
            why = ", ".join(f"{count} have {reason}" for reason, count in counts["left_out"].items())
            raise DataError(f"{corpus}, selection {selection!r}: no repository is left: {why or 'it has no files'}")
        found = []
        for home, table in _by_home(database):
            output = folder / shards[home].name
            manifest = write_shard(ShardTask(output, "", write_table, (table, {})))
            used = tuple(pc.unique(table["shard"]).to_pylist())
            found.append(Planned(shards[home], output, manifest["sha256"], used))
    return found, counts


def _gather(
    database: duckdb.DuckDBPyConnection,
    corpus: Path,
    selection: str,
    settings: RepositorySettings,
    shards: Sequence[Path],
) -> None:
    add_shards_view(database, "documents", shards, "source, repository, path, size_bytes")
    chosen = [selection_shard(corpus, selection, shard) for shard in shards]
    add_shards_view(database, "selected", chosen, "split")
    annotation, _, column = settings.score.partition(".")
    score, joined = "NULL::DOUBLE", ""
    if annotation in annotation_names(corpus):
        paths = [path for path, _ in current_annotation(corpus, annotation, corpus_fingerprint(corpus))]
        known = read_parquet_schema(paths[0]).names
        if column not in known:
            raise DataError(f"score {settings.score}: annotation {annotation} has {', '.join(known[1:])}")
        add_shards_view(database, "scored", paths, f'"{column}"::DOUBLE AS score')
        score, joined = "score", "LEFT JOIN scored USING (_shard, _row)"
    elif settings.min_mean_score is not None:
        raise DataError(
            f"{corpus}: min_mean_score asks for {settings.score}; make it with `data annotate {annotation}`"
        )
    database.execute(
        f"CREATE TABLE files AS SELECT _shard, _row, source, repository, path, size_bytes, {score} AS score "
        f"FROM documents JOIN selected USING (_shard, _row) {joined} WHERE split = ?",
        [settings.split],
    )


def _judge(database: duckdb.DuckDBPyConnection, settings: RepositorySettings) -> None:
    """Makes the table `repositories`, with `left_out`: why it is none of the chosen, or null."""
    lowest = settings.min_mean_score
    by_score = "" if lowest is None else "WHEN mean IS NULL THEN 'no score' WHEN mean < ? THEN 'a low mean score'"
    database.execute(
        f"""CREATE TABLE repositories AS SELECT *, CASE
            WHEN files < ? THEN 'too few files' WHEN size_bytes < ? THEN 'too little text' {by_score} END AS left_out
        FROM (
            SELECT source, repository, min(_shard) AS home, min(_shard::BIGINT * 4294967296 + _row) AS first,
                count(*) AS files, sum(size_bytes) AS size_bytes, avg(score) AS mean
            FROM files GROUP BY source, repository
        )""",
        [settings.min_files, settings.min_bytes(), *([] if lowest is None else [lowest])],
    )


def _counts(database: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return database.execute(query).fetchall()

    ((repositories, files),) = rows("SELECT count(*), coalesce(sum(files), 0)::BIGINT FROM repositories")
    left_out = rows(
        "SELECT left_out, count(*) FROM repositories WHERE left_out IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    ((chosen, low, median, high),) = rows(
        "SELECT count(*), min(mean), median(mean), max(mean) FROM repositories WHERE left_out IS NULL"
    )
    return {
        "repositories": repositories,
        "files": files,
        "left_out": dict(left_out),
        "chosen": chosen,
        "mean": None if low is None else {"lowest": low, "median": median, "highest": high},
    }


def _by_home(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, pa.Table]]:
    reader = database.sql(
        "SELECT home, source, repository, path, _shard AS shard, _row AS row, score "
        "FROM files JOIN repositories USING (source, repository) WHERE left_out IS NULL "
        "ORDER BY home, first, path, _shard, _row"
    ).to_arrow_reader(65_536)
    at, parts = None, []
    for batch in reader:
        table = pa.Table.from_batches([batch])
        for home in pc.unique(table["home"]).to_pylist():
            if parts and home != at:
                yield at, pa.concat_tables(parts).combine_chunks()
                parts = []
            at = home
            parts.append(table.filter(pc.equal(table["home"], home)).select(COLUMNS))
    if parts:
        yield at, pa.concat_tables(parts).combine_chunks()
