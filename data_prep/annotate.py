"""Annotate: run annotators over the documents of a corpus, shard by shard.

Each documents shard gives one annotation shard, made again only when the documents in it or the annotator (version,
settings, what else it depends on) have changed. A document that an annotator crashes on, hangs on or raises for has no
answer: its column `failed` says why, its other columns are null, and it is counted.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from data_prep.annotations import annotation_directory, inputs_of, refuse_others, remove_orphans, write_table
from data_prep.annotators.base import Annotator, AnnotatorSpec, annotator, fingerprint_of, version_of
from data_prep.annotators.isolation import IsolatedAnnotator, IsolationLimits, Rows
from data_prep.documents import list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.shards import (
    ShardTask,
    fingerprint,
    finished_manifest,
    finished_manifests,
    lock_directory,
    remove_shard,
    run_shards,
)
from data_prep.storage import as_path, open_parquet

__all__ = ["Annotator", "AnnotatorSpec", "IsolationLimits", "annotate", "annotator"]

FORMAT = "data_prep.annotation/1"
EXAMPLES = 5
# An annotator that has failed on this many documents of a shard, and on every one so far, is itself at fault.
HOPELESS_AFTER = 20


def annotate(
    corpus: Path,
    specs: Sequence[AnnotatorSpec],
    workers: int = 1,
    limits: IsolationLimits | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    retry_failed: bool = False,
) -> list[dict[str, Any]]:
    """Writes `annotations/<name>` for each annotator: id, its columns, failed (why there is no answer, or null).

    Returns for each what `summary` says. With `retry_failed`, shards in which documents failed are made again. Raises
    `DataError` for an annotator that is none, or that fails on every document.
    """
    corpus, limits = as_path(corpus), limits or IsolationLimits()
    loaded = [spec.load() for spec in specs]
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise DataError(f"annotators {', '.join(names)}: one of them is named twice")
    try:
        with lock_directory(corpus):
            shards = list_shards(corpus)
            digests = [manifest["sha256"] for manifest in finished_manifests(shards)]
            planned = [
                _plan(corpus, spec, known, dict(zip(shards, digests, strict=True)), limits, retry_failed)
                for spec, known in zip(specs, loaded, strict=True)
            ]
            missing = [_missing(tasks) for tasks in planned]
            # All in one run: no worker waits for the last shard of an annotator before it begins with the next.
            label = names[0] if len(names) == 1 else "annotate"
            made = iter(run_shards([*itertools.chain.from_iterable(planned)], workers, progress, label, engine))
            results = [{**summary([*itertools.islice(made, len(shards))]), "shards_made": count} for count in missing]
    finally:
        _isolated.cache_clear()  # where shards were made in this process
    for name, result in zip(names, results, strict=True):
        if result["documents"] and result["failed"] == result["documents"]:
            first = result["failures"][0]
            raise DataError(f"annotator {name} failed on every document, such as {first['path']}: {first['why']}")
    return results


def _plan(
    corpus: Path,
    spec: AnnotatorSpec,
    known: Annotator,
    shards: Mapping[Path, str],
    limits: IsolationLimits,
    retry_failed: bool,
) -> list[ShardTask]:
    """The annotation of each documents shard, given with its digest; what is of shards that are no more is removed."""
    settings = known.model_dump(mode="json")
    refuse_others(corpus, spec.name, settings.get("made_by"))
    directory = annotation_directory(corpus, spec.name)
    remove_orphans(directory, shards)
    answers = fingerprint(FORMAT, fingerprint_of(spec, known), limits.timeout_s)
    about = {"name": spec.name, "version": version_of(known), "settings": settings}
    tasks = []
    for shard, digest in shards.items():
        counters = {"documents_sha256": digest, "annotator": about, "answers": answers}
        inputs = inputs_of(answers, digest)
        output = directory / shard.name
        if retry_failed and (finished_manifest(output, inputs) or {}).get("failed"):
            remove_shard(output)
        tasks.append(ShardTask(output, inputs, annotate_shard, (spec, answers, limits, shard, counters)))
    return tasks


def _missing(tasks: Sequence[ShardTask]) -> int:
    return finished_manifests([task.output for task in tasks], [task.inputs for task in tasks]).count(None)


def summary(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the manifests of an annotation.

    `annotator` (name, version, settings), shards, documents, failed, failures (the first few: id, path, why), and
    `counts`: for each column of yes or no, of lists and of strings, how many documents say yes or have one.
    """
    counts: dict[str, int] = {}
    for manifest in manifests:
        for column, count in manifest.get("counts", {}).items():
            counts[column] = counts.get(column, 0) + count
    return {
        "annotator": manifests[0].get("annotator") if manifests else None,
        "shards": len(manifests),
        "documents": sum(manifest["rows"] for manifest in manifests),
        "failed": sum(manifest.get("failed", 0) for manifest in manifests),
        "failures": list(itertools.chain.from_iterable(m.get("failures", ()) for m in manifests))[:EXAMPLES],
        "counts": counts,
    }


@functools.lru_cache(maxsize=1)
def _isolated(spec: AnnotatorSpec, answers: str, limits: IsolationLimits) -> IsolatedAnnotator:
    """One process for all shards of a worker; another where the annotator's code or files (`answers`) have changed."""
    return IsolatedAnnotator(spec, limits)


def annotate_shard(
    stream: BinaryIO, spec: AnnotatorSpec, answers: str, limits: IsolationLimits, shard: Path, counters: dict[str, Any]
) -> dict[str, Any]:
    """Shard function: the annotation of one documents shard. `answers` is the fingerprint of what gives them."""
    isolated = _isolated(spec, answers, limits)
    batches: list[pa.RecordBatch] = []
    failures: list[str | None] = []
    with open_parquet(shard, pre_buffer=False) as file:
        documents = file.read(columns=["id", "path"], use_threads=False)
        for rows in _batches(file, shard, limits):
            batch, failed = isolated.annotate(rows)
            batches.append(batch)
            failures += failed
            if len(failures) >= HOPELESS_AFTER and all(failures):
                raise DataError(
                    f"annotator {spec.name} failed on each of the first {len(failures)} documents, such as "
                    f"{documents['path'][0]}: {failures[0]}"
                )
    table = pa.Table.from_batches(batches, isolated.schema).combine_chunks()
    counters = {**counters, "counts": _counts(table), **_failed(documents, failures)}
    table = table.add_column(0, pa.field("id", pa.string()), documents["id"].combine_chunks())
    return write_table(stream, table.append_column("failed", pa.array(failures, pa.string())), counters)


def _batches(file: pq.ParquetFile, shard: Path, limits: IsolationLimits) -> Iterator[Rows]:
    for group in range(file.num_row_groups):
        sizes = file.read_row_group(group, columns=["size_bytes"], use_threads=False)["size_bytes"].to_pylist()
        start = size = 0
        for row, size_bytes in enumerate(sizes):
            if row > start and (size + size_bytes > limits.batch_bytes or row - start == limits.batch_rows):
                yield Rows(shard, group, start, row)
                start, size = row, 0
            size += size_bytes
        if sizes:
            yield Rows(shard, group, start, len(sizes))


def _counts(table: pa.Table) -> dict[str, int]:
    counts = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_boolean(column.type):
            counts[name] = pc.sum(column).as_py() or 0
        elif pa.types.is_list(column.type):
            counts[name] = pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0
        elif pa.types.is_string(column.type):
            counts[name] = len(column) - column.null_count
    return counts


def _failed(documents: pa.Table, failures: Sequence[str | None]) -> dict[str, Any]:
    where = [index for index, why in enumerate(failures) if why is not None]
    examples = [
        {"id": documents["id"][i].as_py(), "path": documents["path"][i].as_py(), "why": failures[i]}
        for i in where[:EXAMPLES]
    ]
    return {"failed": len(where), "failures": examples}
