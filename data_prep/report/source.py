"""A corpus as a report reads it: documents, current annotations and one selection, as views of a scratch database."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_prep.annotations import annotation_names, annotation_shard, current_annotation
from data_prep.database import add_shards_view, open_database
from data_prep.documents import METADATA_COLUMNS, SCHEMA, corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.select import read_selection
from data_prep.selection.places import selection_shard
from data_prep.storage import read_parquet_schema

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Source:
    """Views `documents` and one for each annotation, with `_shard` and `_row`; `files` is documents with their fate.

    `files`: documents' columns, and of the selection `split` and `dropped_by`, both null where there is none.
    """

    corpus: Path
    shards: Sequence[Path]
    annotations: Mapping[str, Sequence[Mapping[str, Any]]]
    """Current annotation -> manifests of its shards."""
    selection: Mapping[str, Any] | None
    database: duckdb.DuckDBPyConnection

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        result = self.database.execute(query, list(values))
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def schema(self, annotation: str) -> pa.Schema:
        return read_parquet_schema(annotation_shard(self.corpus, annotation, self.shards[0]))

    def joined(self, *annotations: str) -> str:
        """SQL of `files` with these annotations."""
        return "files" + "".join(f' LEFT JOIN "{name}" USING (_shard, _row)' for name in dict.fromkeys(annotations))


@contextlib.contextmanager
def open_source(corpus: Path, selection: str | None, workers: int) -> Iterator[Source]:
    """Raises `DataError` where there is no corpus, or no such selection."""
    shards, whole = list_shards(corpus), corpus_fingerprint(corpus)
    chosen = read_selection(corpus, selection) if selection else None
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch), workers) as database:
        columns = ", ".join(METADATA_COLUMNS)
        if not shards:
            database.register("_nothing", SCHEMA.empty_table())
            database.execute(
                f"CREATE TABLE documents AS SELECT {columns}, 0 AS _shard, 0::BIGINT AS _row FROM _nothing"
            )
        else:
            add_shards_view(database, "documents", shards, columns)
        fate = "NULL::VARCHAR AS split, NULL::VARCHAR AS dropped_by FROM documents"
        if chosen and shards:
            paths = [selection_shard(corpus, selection, shard) for shard in shards]
            add_shards_view(database, "_selected", paths, "split, dropped_by")
            fate = "split, dropped_by FROM documents JOIN _selected USING (_shard, _row)"
        database.execute(f"CREATE VIEW files AS SELECT documents.*, {fate}")
        annotations = dict(_annotations(corpus, whole, database)) if shards else {}
        yield Source(corpus, shards, annotations, chosen, database)


def _annotations(
    corpus: Path, whole: str, database: duckdb.DuckDBPyConnection
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in annotation_names(corpus):
        if not _NAME.fullmatch(name):
            continue
        try:
            found = current_annotation(corpus, name, whole)
        except DataError:
            continue
        paths = [path for path, _ in found]
        columns = [f'"{column}"' for column in read_parquet_schema(paths[0]).names if column != "id"]
        add_shards_view(database, name, paths, ", ".join(columns))
        yield name, [manifest for _, manifest in found]
