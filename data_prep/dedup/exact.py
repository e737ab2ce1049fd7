"""Exact duplicates by SHA-256, of files and of whole repositories (Seed-Coder report, section 2.2.1).

Files with equal text are one group, over all repositories and sources, so that after their removal no text stands in
two repositories, and none can be both trained on and held out. Of each group one is kept: one that was kept before,
then the one with the most stars, then the first by source, repository and id (so that a library copied without stars
stays together in one repository). Repositories with equal multisets of files are duplicates too; kept is one that was
kept before, then the one with the most stars, then the first by source and name.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from data_prep.annotations import StepAnnotation, write_table
from data_prep.dedup.catalogue import BY_DIGEST, hex_of, update_catalogue
from data_prep.dedup.earlier import flags_at, is_null
from data_prep.dedup.keepers import choose_keepers
from data_prep.dedup.repositories import BY_FILES, ROW_BYTES, gather_repositories, spread_to_documents
from data_prep.dedup.steps import Level, make_runner
from data_prep.documents import corpus_fingerprint
from data_prep.engines.base import Engine
from data_prep.partitions import (
    Runner,
    group_bounds,
    open_columns,
    positions,
    read_runs,
    record_type,
    records,
    take_results,
    take_rows,
    words_of,
    write_run,
)
from data_prep.shards import fingerprint, lock_directory
from data_prep.storage import as_path

NAME = StepAnnotation.EXACT_DEDUP.value
FORMAT = "data_prep.exact_dedup/2"
COUNTERS = ("rows", "duplicates", "duplicate_bytes")
_FILE_KEPT, _REPOSITORY_KEPT = 1, 2  # flags of what was kept before
_KEEPER = record_type(value="<u8")
_REPOSITORY_ORDER = (("stars", "descending"), ("source", "ascending"), ("repository", "ascending"))
_FILE_ORDER = (*_REPOSITORY_ORDER, ("id", "ascending"))


def annotate_exact(
    corpus: Path,
    workers: int,
    progress: Progress | None = None,
    partitions: int | None = None,
    rekey: bool = False,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes `annotations/exact_dedup`: id, duplicate_of (id or null), repository_duplicate_of ("source/name" or null).

    Returns documents, duplicates and duplicate_bytes. Does nothing when the annotation is up to date. What was kept
    before stays kept, unless `rekey`. Global steps are cut into `partitions` (default: by the number of documents).
    Raises `DataError`.
    """
    corpus = as_path(corpus)
    with lock_directory(corpus):
        inputs = fingerprint(FORMAT, corpus_fingerprint(corpus))
        level = Level(corpus, NAME, inputs, FORMAT, {}, kept_flags)
        manifests = level.finished(rekey)
        if manifests is None:
            runner = make_runner(corpus, workers, partitions, ROW_BYTES, engine, progress)
            manifests = _annotate(level, runner, rekey)
    documents, duplicates, duplicate_bytes = (sum(manifest[key] for manifest in manifests) for key in COUNTERS)
    return {"documents": documents, "duplicates": duplicates, "duplicate_bytes": duplicate_bytes}


def kept_flags(annotation: pa.Table) -> np.ndarray:
    files, repositories = (is_null(annotation, name) for name in ("duplicate_of", "repository_duplicate_of"))
    return _FILE_KEPT * files + _REPOSITORY_KEPT * repositories


def _annotate(level: Level, runner: Runner, rekey: bool) -> list[dict[str, Any]]:
    catalogue = update_catalogue(level.corpus, runner)
    earlier = level.earlier(catalogue, runner, rekey)
    inputs = fingerprint(FORMAT, catalogue.digest, earlier.digest if earlier else None)
    known = earlier.paths if earlier else ()
    args = (catalogue.side(BY_DIGEST), catalogue.paths, known)
    files = runner.reduce("equal files", level.work / "files", find_equal_files, inputs, args)
    repositories = gather_repositories(catalogue, earlier, runner, level.work)
    args = (repositories.side(BY_FILES), repositories.paths)
    inputs = fingerprint(FORMAT, repositories.digest)
    copies = runner.reduce("equal repositories", level.work / "copies", find_equal_repositories, inputs, args)
    copied = spread_to_documents(
        "files of equal repositories", repositories, copies.paths, copies.digest, runner, level.work / "copied"
    )
    args = (catalogue.paths, files.paths, copied.paths, repositories.paths)
    manifests = level.annotate("exact duplicates", runner, earlier, write_annotation, args)
    level.remove_work()
    return manifests


def find_equal_files(
    stream: BinaryIO,
    _output: Path,
    key_range: tuple[int, int],
    runs: Sequence[Path],
    catalogue: Sequence[Path],
    earlier: Sequence[Path],
) -> dict[str, Any]:
    """Partition function: a run (position of a duplicate, position of its keeper)."""
    where = _repeated(*read_runs(runs, key_range))
    ranks = take_rows(catalogue, where, ["stars", "source", "repository", "id", "digest"])
    groups = _equal_digests(ranks)
    first = choose_keepers(groups, flags_at(earlier, where) & _FILE_KEPT, ranks, _FILE_ORDER)
    return _write_duplicates(stream, where, first)


def find_equal_repositories(
    stream: BinaryIO, _output: Path, key_range: tuple[int, int], runs: Sequence[Path], repositories: Sequence[Path]
) -> dict[str, Any]:
    """Partition function: a run (position of a duplicate repository, position of its keeper)."""
    where = _repeated(*read_runs(runs, key_range))
    ranks = take_rows(repositories, where, ["stars", "source", "repository", "digest", "earlier"])
    kept = (ranks["earlier"].to_numpy() & _REPOSITORY_KEPT) // _REPOSITORY_KEPT
    first = choose_keepers(_equal_digests(ranks), kept, ranks, _REPOSITORY_ORDER)
    return _write_duplicates(stream, where, first)


def _repeated(found: np.ndarray, shards: np.ndarray) -> np.ndarray:
    """The positions of rows whose key another row has too."""
    keys = found["key"]
    same = keys[1:] == keys[:-1]
    repeated = np.append(same, False) | np.insert(same, 0, False) if len(keys) else np.zeros(0, bool)
    return positions(shards[repeated], found["row"][repeated])


def _equal_digests(table: pa.Table) -> np.ndarray:
    """A number for each row, the same for equal digests."""
    words = words_of(table["digest"])
    order = np.lexsort(words.T[::-1])
    starts, stops = group_bounds(*words[order].T)
    groups = np.empty(len(words), np.int64)
    groups[order] = np.repeat(np.arange(len(starts)), stops - starts)
    return groups


def _write_duplicates(stream: BinaryIO, where: np.ndarray, first: np.ndarray) -> dict[str, Any]:
    duplicate = first != np.arange(len(first))
    return write_run(stream, records(_KEEPER, key=where[duplicate], value=where[first[duplicate]]))


def write_annotation(
    stream: BinaryIO,
    _shard: Path,
    index: int,
    counters: dict[str, Any],
    catalogue: Sequence[Path],
    files: Sequence[Path],
    copied: Sequence[Path],
    repositories: Sequence[Path],
) -> dict[str, Any]:
    """Shard function: the annotation of one documents shard."""
    about = open_columns(catalogue[index])
    keepers = take_results(files, index, about.num_rows, catalogue, "id")
    copies = take_results(copied, index, about.num_rows, repositories, "name")
    table = pa.table({"id": hex_of(about["id"]), "duplicate_of": hex_of(keepers), "repository_duplicate_of": copies})
    sizes = about["size_bytes"].filter(table["duplicate_of"].is_valid())
    kept_rows = hashlib.sha256(np.packbits(is_null(table, "duplicate_of")).tobytes()).hexdigest()
    found = {"duplicates": len(sizes), "duplicate_bytes": sum(sizes.to_pylist()), "kept_rows": kept_rows}
    return write_table(stream, table, counters | found)
