"""Near-equal repositories: forks and copies, by the Jaccard similarity of their sets of file contents.

The same MinHash machinery as for files finds the candidates, with the hashes of the files in place of n-grams; each is
checked exactly. Repositories connected by pairs of at least the threshold are one family; kept is one that was kept
before, then the one with the most stars, then the largest, then the first by source and name. Equal repositories are
of one family as well, so this level holds what the exact one finds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from data_prep.annotations import StepAnnotation, write_table
from data_prep.dedup.catalogue import hex_of, update_catalogue
from data_prep.dedup.earlier import is_null
from data_prep.dedup.minhash import Bands, permutation_factors, signatures
from data_prep.dedup.near import BANDS, band_records, summary
from data_prep.dedup.pairs import Comparison, Items, highest_of_shard, sketch_table
from data_prep.dedup.relate import Ranking, clusters_of_shard, compare_at, relate
from data_prep.dedup.repositories import ROW_BYTES, gather_repositories, lists_of, spread_to_documents
from data_prep.dedup.settings import NearSettings
from data_prep.dedup.steps import Level, make_runner
from data_prep.documents import corpus_fingerprint
from data_prep.engines.base import Engine
from data_prep.partitions import Output, Runner, open_columns, shard_range, side_path, write_columns, write_side_run
from data_prep.shards import ShardTask, fingerprint, lock_directory
from data_prep.storage import as_path

NAME = StepAnnotation.REPOSITORY_DEDUP.value
FORMAT = "data_prep.repository_dedup/1"
_ORDER = (("stars", "descending"), ("size_bytes", "descending"), ("source", "ascending"), ("repository", "ascending"))


def annotate_repositories(
    corpus: Path,
    workers: int,
    progress: Progress | None = None,
    settings: NearSettings | None = None,
    partitions: int | None = None,
    rekey: bool = False,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes `annotations/repository_dedup` and returns its numbers.

    Columns: id, duplicate_of ("source/name" of the keeper of the document's repository, or null), family ("source/name"
    of its first keeper; null when alone), similarity (the highest Jaccard similarity to another repository, where it
    reaches the threshold). What was kept before stays kept, unless `rekey` or other settings. Raises `DataError`.
    """
    corpus, settings = as_path(corpus), settings or NearSettings()
    with lock_directory(corpus):
        asked = fingerprint(FORMAT, settings.model_dump(include=_SETTINGS))
        level = Level(corpus, NAME, fingerprint(asked, corpus_fingerprint(corpus)), asked, {}, kept_flags)
        manifests = level.finished(rekey)
        if manifests is None:
            runner = make_runner(corpus, workers, partitions, ROW_BYTES, engine, progress)
            manifests = _annotate(level, settings, runner, rekey)
    return summary(manifests)


_SETTINGS = {"permutations", "repository_threshold", "repository_recall", "neighbours", "estimate_deviations", "seed"}


def kept_flags(annotation: pa.Table) -> np.ndarray:
    return is_null(annotation, "duplicate_of")


def _annotate(level: Level, settings: NearSettings, runner: Runner, rekey: bool) -> list[dict[str, Any]]:
    catalogue = update_catalogue(level.corpus, runner)
    earlier = level.earlier(catalogue, runner, rekey)
    repositories = gather_repositories(catalogue, earlier, runner, level.work)
    threshold, recall = settings.repository_threshold, settings.repository_recall
    comparison = compare_at(settings.permutations, threshold, recall, settings)
    signed = _sign(repositories, settings, comparison, runner, level.work)
    relations = relate(
        Items(signed.side(BANDS), signed.paths, repositories.paths, (True,) * len(signed.paths)),
        fingerprint(signed.digest, repositories.digest),
        comparison,
        lambda merged: repositories,
        Output((), ()),
        Ranking(_ORDER, earlier_column="earlier"),
        runner,
        level.work,
    )
    whole = relations.numbers(settings.permutations, comparison) | {
        "repositories": repositories.total("rows"),
        "duplicate_repositories": relations.clustered.total("dropped"),
    }
    digest = relations.clustered.digest
    spread = []
    for label, paths in (("families", relations.clustered.paths), ("similarities", relations.similarity)):
        folder = level.work / f"spread-{label}"
        spread.append(spread_to_documents(f"{label} of files", repositories, paths, digest, runner, folder).paths)
    args = (whole, catalogue.paths, repositories.paths, *spread)
    manifests = level.annotate("near-equal repositories", runner, earlier, write_annotation, args)
    level.remove_work()
    return manifests


def _sign(repositories: Output, settings: NearSettings, comparison: Comparison, runner: Runner, work: Path) -> Output:
    tasks = []
    for index, path in enumerate(repositories.paths):
        output = work / "signatures" / f"{path.stem}.arrow"
        made_of = fingerprint(repositories.digest, repr(comparison), settings.permutations, settings.seed, index)
        tasks.append(ShardTask(output, made_of, write_signatures, (output, path, settings, comparison.cut)))
    return runner.run("signatures of repositories", tasks)


def write_signatures(
    stream: BinaryIO, output: Path, repositories: Path, settings: NearSettings, cut: Bands
) -> dict[str, Any]:
    """Shard function: signatures of one partition's repositories."""
    offsets, members = lists_of(open_columns(repositories)["set"])
    factors = permutation_factors(settings.permutations, settings.seed)
    signature = signatures(members, offsets, factors)
    rows = np.arange(len(signature))
    write_columns(stream, sketch_table(rows, signature))
    files = write_side_run(side_path(output, BANDS), band_records(rows, signature, np.ones(len(rows), bool), cut))
    return {"rows": len(rows), "files": files}


def write_annotation(
    stream: BinaryIO,
    _shard: Path,
    index: int,
    counters: dict[str, Any],
    whole: dict[str, Any],
    catalogue: Sequence[Path],
    repositories: Sequence[Path],
    clustered: Sequence[Path],
    similarity: Sequence[Path],
) -> dict[str, Any]:
    """Shard function: the annotation of one documents shard."""
    about = open_columns(catalogue[index])
    keeper, family = clusters_of_shard(clustered, index, about.num_rows, repositories, "name")
    highest = highest_of_shard(similarity, shard_range(index), about.num_rows)
    table = pa.table(
        {
            "id": hex_of(about["id"]),
            "duplicate_of": keeper,
            "family": family,
            "similarity": pa.array(highest, mask=highest == 0),
        }
    )
    sizes = about["size_bytes"].filter(table["duplicate_of"].is_valid())
    found = {"compared": about.num_rows, "duplicates": len(sizes), "duplicate_bytes": sum(sizes.to_pylist())}
    return write_table(stream, table, counters | found | {"whole": whole})
