"""Exact duplicates by SHA-256, of files and of whole repositories (Seed-Coder report, section 2.2.1).

Files with equal text are one group, over all repositories and sources, so that after their removal no text stands in
two repositories, and none can be both trained on and held out. Of each group one is kept: one whose repository is not
itself a duplicate, then the one with the most stars, then the first by source, repository and id (so that a library
copied without stars stays together in one repository).

Two repositories are duplicates when their multisets of file hashes are equal; kept is the one with the most stars, then
the first by source and name. A multiset is compared by its number of files and bytes and by two sums over 60-bit parts
of the hashes: equal multisets always agree, others do with a chance of 2^-120.
"""

from pathlib import Path
from typing import Any

import duckdb
from rich.progress import Progress

from data_prep.annotations import annotation_directory, remove_orphans, write_table
from data_prep.database import add_shards_view, open_database, shard_tables
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, write_shard

NAME = "exact_dedup"
FORMAT = "data_prep.exact_dedup/1"
_COUNTERS = ("rows", "duplicates", "duplicate_bytes")

_FILES = """
CREATE TABLE files AS
SELECT _shard, _row, id, source, repository, unhex(sha256) AS digest, size_bytes, coalesce(stars, -1) AS stars,
       ('0x' || sha256[1:15])::UBIGINT AS part_1, ('0x' || sha256[16:30])::UBIGINT AS part_2
FROM documents
"""
_REPOSITORIES = """
CREATE TABLE repository_duplicates AS
WITH repositories AS (
    SELECT source, repository, max(stars) AS stars,
           count(*) AS files, sum(size_bytes) AS bytes, sum(part_1) AS sum_1, sum(part_2) AS sum_2
    FROM files GROUP BY source, repository
), grouped AS (
    SELECT source, repository, first_value(source || '/' || repository) OVER same AS keeper
    FROM repositories
    WINDOW same AS (PARTITION BY files, bytes, sum_1, sum_2 ORDER BY stars DESC, source, repository)
)
SELECT * FROM grouped WHERE keeper <> source || '/' || repository
"""
_DUPLICATES = """
CREATE TABLE duplicates AS
WITH repeated AS (
    SELECT digest FROM files GROUP BY digest HAVING count(*) > 1
), grouped AS (
    SELECT id, first_value(id) OVER (
        PARTITION BY digest ORDER BY stars DESC, source, repository, id
    ) AS duplicate_of
    FROM files SEMI JOIN repeated USING (digest)
)
SELECT * FROM grouped WHERE duplicate_of <> id
"""
_RESULT = """
SELECT id, duplicate_of, keeper AS repository_duplicate_of, size_bytes
FROM files LEFT JOIN duplicates USING (id) LEFT JOIN repository_duplicates USING (source, repository)
ORDER BY _shard, _row
"""


def annotate_exact(
    corpus: Path, workers: int, progress: Progress | None = None, memory_limit: str = "1GB"
) -> dict[str, Any]:
    """Writes `annotations/exact_dedup`: id, duplicate_of (id or null), repository_duplicate_of ("source/name" or null).

    Returns documents, duplicates and duplicate_bytes. Does nothing when the annotation is up to date. DuckDB uses at
    most `memory_limit` and `workers` threads, and spills to disk. Raises `DataError`.
    """
    corpus = Path(corpus)
    with lock_directory(corpus):
        shards = list_shards(corpus)
        inputs = fingerprint(FORMAT, corpus_fingerprint(corpus))
        directory = annotation_directory(corpus, NAME)
        remove_orphans(directory, shards)
        manifests = [finished_manifest(directory / shard.name, inputs) for shard in shards]
        if not all(manifests):
            try:
                manifests = _annotate(corpus, shards, inputs, workers, memory_limit, progress)
            except duckdb.Error as error:
                raise DataError(f"{corpus}: exact deduplication failed: {str(error).splitlines()[0]}") from error
    documents, duplicates, duplicate_bytes = (sum(manifest[key] for manifest in manifests) for key in _COUNTERS)
    return {"documents": documents, "duplicates": duplicates, "duplicate_bytes": duplicate_bytes}


def _annotate(
    corpus: Path, shards: list[Path], inputs: str, workers: int, memory_limit: str, progress: Progress | None
) -> list[dict[str, Any]]:
    whole = corpus_fingerprint(corpus)
    bar = progress.add_task("exact duplicates", total=len(shards)) if progress else None
    manifests = []
    with open_database(corpus, workers, memory_limit) as database:
        add_shards_view(database, "documents", shards, "id, source, repository, sha256, size_bytes, stars")
        for statement in (_FILES, _REPOSITORIES, _DUPLICATES):
            database.execute(statement)
        for shard, table in shard_tables(database, _RESULT, shards):
            sizes = table["size_bytes"].filter(table["duplicate_of"].is_valid())
            counters = {
                "documents_sha256": finished_manifest(shard)["sha256"],
                "corpus_fingerprint": whole,
                "duplicates": len(sizes),
                "duplicate_bytes": sum(sizes.to_pylist()),
            }
            output = annotation_directory(corpus, NAME) / shard.name
            manifests.append(
                write_shard(ShardTask(output, inputs, write_table, (table.drop_columns("size_bytes"), counters)))
            )
            if progress:
                progress.advance(bar)
    return manifests
