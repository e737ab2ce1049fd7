"""The sample: which files an oracle rates, with their texts, in the order in which they are asked for.

Languages get files in proportion to their counts (Webster's method: each next file goes to the language that is
furthest behind), as far as there are any; within a language, documents come by a hash of (seed, id). So any beginning
of the sample is itself a sample with the same shares, a larger sample begins with the smaller one, and neither the
order of shards nor documents of other languages matter. The sample is per file: repositories are not kept whole.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.annotations import annotation_names, current_annotation
from data_prep.database import add_shards_view, open_database
from data_prep.documents import METADATA_COLUMNS, corpus_fingerprint, list_shards, read_rows
from data_prep.errors import DataError
from data_prep.oracle.settings import REPORT_COUNTS, SampleSettings
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.redaction import redact
from data_prep.select import read_selection
from data_prep.selection.places import selection_shard
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, write_shard

FORMAT = "data_prep.oracle.sample/1"
DUPLICATES = ("exact_dedup", "near_dedup")
ABOUT = ("id", "repository", "path", "language", "size_bytes", "sha256")
SCHEMA = pa.schema(
    [pa.field(name, pa.int64() if name == "size_bytes" else pa.string(), nullable=False) for name in (*ABOUT, "text")]
)
_BATCH_ROWS = 128


@dataclass(frozen=True)
class Sample:
    """Sampled files: `path` is a parquet file of `SCHEMA`; the texts in it are as they are sent, redacted."""

    path: Path
    manifest: dict[str, Any]

    @property
    def files(self) -> int:
        return self.manifest["rows"]

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The files in their order, a bounded number at a time."""
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=columns)


def allocate(counts: Mapping[str, int], available: Mapping[str, int], files: int) -> list[str]:
    """The language of each file of a sample of min(`files`, what there is of languages that have a count), in order.

    The k-th file (from 0) of a language is due at (2 k + 1) / count; files come in the order in which they are due.
    """
    names = sorted(name for name, count in counts.items() if count and available.get(name))
    due, language = [], []
    for index, name in enumerate(names):
        places = min(available[name], files)
        due.append((2 * np.arange(places) + 1) / counts[name])
        language.append(np.full(places, index, np.int32))
    if not names:
        return []
    order = np.lexsort((np.concatenate(language), np.concatenate(due)))[:files]
    return [names[index] for index in np.concatenate(language)[order]]


def draw_sample(corpus: Path, directory: Path, settings: SampleSettings, workers: int = 1) -> Sample:
    """Writes `directory/sample.parquet`, unless it is there and up to date; nothing else may change the corpus then.

    The manifest counts for each language what there is (`available`), what the counts alone would take (`wanted`) and
    what was taken (`files`). Raises `DataError` where nothing can be sampled, or a selection or duplicates are out of
    date.
    """
    output = directory / "sample.parquet"
    with lock_directory(corpus):
        whole = corpus_fingerprint(corpus)
        rule = _rule(corpus, settings, whole)
        inputs = fingerprint(FORMAT, whole, settings.model_dump(mode="json"), rule.inputs)
        if (done := finished_manifest(output, inputs)) is not None:
            return Sample(output, done)
        with open_database(directory, workers) as database:
            taken, about = _choose(database, corpus, settings, rule)
            _gather_texts(database, list_shards(corpus), taken)
            about = {"format": FORMAT, "seed": settings.seed, "left_by": rule.name, **about}
            return Sample(output, write_shard(ShardTask(output, inputs, _write, (database, about))))


@dataclass(frozen=True)
class _Rule:
    """Which documents may be sampled: `drop` is SQL over the views of `views`."""

    name: str
    drop: str
    views: dict[str, tuple[list[Path], str]]  # view -> shards, columns
    inputs: Any
    redactions: str = "NULL"


def _rule(corpus: Path, settings: SampleSettings, whole: str) -> _Rule:
    if settings.selection is not None:
        selection = read_selection(corpus, settings.selection)
        paths = [selection_shard(corpus, settings.selection, shard) for shard in list_shards(corpus)]
        redacts = bool(selection["config"]["redact"])
        columns = f"dropped_by, {REDACTIONS}" if redacts else "dropped_by"
        views = {"selection": (paths, columns)}
        name = f"selection {settings.selection}"
        redactions = f"selection.{REDACTIONS}" if redacts else "NULL"
        return _Rule(name, "selection.dropped_by IS NOT NULL", views, selection["digest"], redactions)
    made = [name for name in DUPLICATES if name in annotation_names(corpus)]
    found = {name: current_annotation(corpus, name, whole) for name in made}
    views = {name: ([path for path, _ in pairs], "duplicate_of") for name, pairs in found.items()}
    drop = " OR ".join(f"{name}.duplicate_of IS NOT NULL" for name in made) or "false"
    digests = {name: [manifest["sha256"] for _, manifest in pairs] for name, pairs in found.items()}
    return _Rule(" and ".join(made) or "nothing (no duplicates were looked for)", drop, views, digests)


def _choose(
    database: duckdb.DuckDBPyConnection, corpus: Path, settings: SampleSettings, rule: _Rule
) -> tuple[dict[int, list[tuple[int, int, Any]]], dict[str, Any]]:
    """Which rows are taken, as shard -> [(row, rank, what to redact)], and counts."""
    add_shards_view(database, "documents", list_shards(corpus), ", ".join(METADATA_COLUMNS))
    joined = "documents"
    for view, (paths, columns) in rule.views.items():
        add_shards_view(database, view, paths, columns)
        joined += f' LEFT JOIN "{view}" USING (_shard, _row)'
    candidates = (
        f"SELECT documents.language, documents.id, _shard, _row, {rule.redactions} AS redactions "
        f"FROM {joined} WHERE NOT ({rule.drop})"
    )
    there = dict(database.execute(f"SELECT language, count(*) FROM ({candidates}) GROUP BY 1").fetchall())
    wanted = _wanted(settings.counts, there)
    available = {language: there[language] for language in wanted if language in there}
    share = round(settings.max_share * sum(available.values())) or 1
    files = settings.files or min(sum(settings.counts.values()), share)
    order = allocate(wanted, available, files)
    if not order:
        raise DataError(
            f"{corpus}: there is nothing to sample: no file in {', '.join(wanted)} is left by {rule.name}; "
            "name other languages in sample.counts, or another selection"
        )
    places: dict[str, list[int]] = {}
    for rank, language in enumerate(order):
        places.setdefault(language, []).append(rank)
    most = max(map(len, places.values()))
    chosen = database.execute(
        f"""SELECT language, unnest(min_by({{shard: _shard, 'row': _row, redactions: redactions, id: id}},
            sha256('{settings.seed}:' || id), {most})) AS file FROM ({candidates})
            WHERE list_contains(?::VARCHAR[], language) GROUP BY language""",
        [list(wanted)],
    ).fetchall()
    taken = _ranked(chosen, places, settings.seed)
    total = sum(wanted.values())
    by_language = {
        language: {
            "available": available.get(language, 0),
            "wanted": round(len(order) * count / total),
            "files": len(places.get(language, ())),
        }
        for language, count in sorted(wanted.items())
    }
    return taken, {"languages": by_language}


def _wanted(counts: Mapping[str, int], there: Mapping[str, int]) -> dict[str, int]:
    """The counts above 0. The report's are of code: a corpus with none of it, such as web pages, is taken as it is."""
    wanted = {language: count for language, count in counts.items() if count}
    if counts == REPORT_COUNTS and there and not there.keys() & wanted.keys():
        return dict(there)
    return wanted


def _ranked(
    chosen: list[tuple[str, dict[str, Any]]], places: Mapping[str, list[int]], seed: int
) -> dict[int, list[tuple[int, int, Any]]]:
    """Gives the documents of each language, in the order of their hashes, the places of that language."""
    files: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for language, file in chosen:
        digest = hashlib.sha256(f"{seed}:{file['id']}".encode()).hexdigest()
        files.setdefault(language, []).append((digest, file))
    taken: dict[int, list[tuple[int, int, Any]]] = {}
    for language, found in files.items():
        found.sort(key=lambda pair: pair[0])
        for rank, (_, file) in zip(places.get(language, ()), found, strict=False):  # found: no fewer than places
            taken.setdefault(file["shard"], []).append((file["row"], rank, file["redactions"]))
    return taken


def _gather_texts(
    database: duckdb.DuckDBPyConnection, shards: list[Path], taken: Mapping[int, list[tuple[int, int, Any]]]
) -> None:
    """Makes the table `sample` (rank and `SCHEMA`), reading only row groups with a file that was taken."""
    empty = pa.table({"rank": pa.array([], pa.int64()), **{f.name: pa.array([], f.type) for f in SCHEMA}})
    database.register("_empty", empty)
    database.execute("CREATE TABLE sample AS FROM _empty")
    database.unregister("_empty")
    for index, rows in sorted(taken.items()):
        rows = sorted(rows)
        start = 0
        for found, documents in read_rows(shards[index], np.array([row for row, _, _ in rows]), SCHEMA.names):
            _insert(database, documents, rows[start : start + len(found)])
            start += len(found)


def _insert(database: duckdb.DuckDBPyConnection, table: pa.Table, rows: list[tuple[int, int, Any]]) -> None:
    texts = [redact(text, spans) for text, (_, _, spans) in zip(table["text"].to_pylist(), rows, strict=True)]
    columns = {name: table[name] for name in ABOUT} | {"text": pa.array(texts, pa.string())}
    database.register("_rows", pa.table({"rank": pa.array([rank for _, rank, _ in rows], pa.int64()), **columns}))
    database.execute("INSERT INTO sample FROM _rows")
    database.unregister("_rows")


def _write(stream: BinaryIO, database: duckdb.DuckDBPyConnection, about: dict[str, Any]) -> dict[str, Any]:
    names = ", ".join(SCHEMA.names)
    reader = database.sql(f"SELECT {names} FROM sample ORDER BY rank").to_arrow_reader(1024)
    rows = text_bytes = 0
    with pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).cast(SCHEMA))
            rows += batch.num_rows
            text_bytes += sum(len(text.encode()) for text in batch["text"].to_pylist())
    return {**about, "rows": rows, "text_bytes": text_bytes}
