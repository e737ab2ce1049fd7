"""Near duplicates among files: MinHash over word 5-grams, every candidate pair checked by its true Jaccard similarity.

Looked at are the files that exact deduplication keeps. Files connected by pairs of at least the threshold are one
cluster; kept is one that was kept before, then the one with the most stars, then the largest, then the first by id.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from data_prep.annotations import StepAnnotation, annotation_shard, current_annotation, write_table
from data_prep.dedup.catalogue import dedup_directory, hex_of, keep_only, update_catalogue
from data_prep.dedup.compared import Targets, batches_of, targets_of, texts_at
from data_prep.dedup.earlier import is_null
from data_prep.dedup.exact import NAME as EXACT
from data_prep.dedup.known_pairs import KnownPairs
from data_prep.dedup.minhash import Bands, band_keys, permutation_factors, text_set, text_signatures
from data_prep.dedup.pairs import BAND, NEEDED, Comparison, Items, highest_of_shard, sketch_table
from data_prep.dedup.relate import Ranking, clusters_of_shard, compare_at, relate
from data_prep.dedup.settings import NearSettings
from data_prep.dedup.steps import Level, make_runner
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    open_columns,
    read_runs,
    records,
    shard_range,
    side_path,
    write_columns,
    write_side_run,
)
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory
from data_prep.storage import as_path, read_parquet

NAME = StepAnnotation.NEAR_DEDUP.value
FORMAT = "data_prep.near_dedup/2"
SIGNATURES = "data_prep.signatures/2"
BANDS = "bands.npy"
_ORDER = (("stars", "descending"), ("size_bytes", "descending"), ("id", "ascending"))
_BAND_BYTES = 56  # that a task holds for each band of a document, at most about


def annotate_near(
    corpus: Path,
    workers: int,
    progress: Progress | None = None,
    settings: NearSettings | None = None,
    partitions: int | None = None,
    rekey: bool = False,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes `annotations/near_dedup` and returns its numbers.

    Columns: id, duplicate_of (id of the keeper, or null), cluster (id of its first keeper; null when alone), similarity
    (the highest Jaccard similarity to another file, where it reaches the threshold), ngrams (null for exact duplicates,
    which are not looked at). What was kept before stays kept, unless `rekey` or other settings. Raises `DataError`,
    also where exact duplicates are not known yet.
    """
    corpus, settings = as_path(corpus), settings or NearSettings()
    with lock_directory(corpus):
        whole = corpus_fingerprint(corpus)
        exact = [manifest for _, manifest in current_annotation(corpus, EXACT, whole)]
        if not all("kept_rows" in manifest for manifest in exact):
            raise DataError(f"{corpus}: {EXACT} was made by an older version; run `data dedup` without --near")
        after = {EXACT: exact[0]["run"] if exact else ""}
        targets = targets_of(corpus, settings)
        more = ["target"] if targets else []
        asked = fingerprint(FORMAT, settings.model_dump(exclude={"text"}), *more)
        made_of = fingerprint(asked, whole, after, *(digest for _, digest in targets.values()))
        level = Level(corpus, NAME, made_of, asked, after, kept_flags)
        manifests = level.finished(rekey)
        if manifests is None:
            comparison = compare_at(settings.permutations, settings.threshold, settings.recall, settings)
            row_bytes = _BAND_BYTES * comparison.cut.bands
            runner = make_runner(corpus, workers, partitions, row_bytes, engine, progress)
            manifests = _annotate(level, settings, targets, comparison, runner, rekey)
    return summary(manifests)


def summary(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of an annotation: those of the whole, and the sums of what each shard counted."""
    totals = ("rows", "compared", "duplicates", "duplicate_bytes")
    found = {name: sum(manifest[name] for manifest in manifests) for name in totals}
    found["documents"] = found.pop("rows")
    return {**found, **manifests[0]["whole"]}


def kept_flags(annotation: pa.Table) -> np.ndarray:
    return is_null(annotation, "duplicate_of") & (1 - is_null(annotation, "ngrams"))


def _annotate(
    level: Level, settings: NearSettings, targets: Targets, comparison: Comparison, runner: Runner, rekey: bool
) -> list[dict[str, Any]]:
    catalogue = update_catalogue(level.corpus, runner)
    earlier = level.earlier(catalogue, runner, rekey)
    signatures = make_signatures(level.corpus, settings, targets, comparison.cut, runner)
    known = _known_pairs(level, settings, comparison, signatures)
    # A run from nothing compares everything: known pairs of large buckets may be others than it would look at.
    anew = earlier is None
    fresh = (True,) * len(signatures.paths) if anew else known.fresh()
    relations = relate(
        Items(signatures.side(BANDS), signatures.paths, catalogue.paths, fresh),
        fingerprint(signatures.digest, catalogue.digest),
        comparison,
        partial(make_sets, level.corpus, settings, targets, runner, level.work),
        Output((), ()) if anew else known.carry(runner, level.work),
        Ranking(_ORDER, () if anew else earlier.paths),
        runner,
        level.work,
    )
    whole = relations.numbers(settings.permutations, comparison) | {
        "signature_bytes": signatures.total("signature_bytes"),
        "read_bytes": signatures.total("read_bytes"),
    }
    args = (whole, catalogue.paths, signatures.paths, relations.clustered.paths, relations.similarity)
    manifests = level.annotate("near duplicates", runner, earlier, write_annotation, args)
    known.keep(relations.near.paths)
    level.remove_work()
    return manifests


def _known_pairs(level: Level, settings: NearSettings, comparison: Comparison, signatures: Output) -> KnownPairs:
    asked = fingerprint(SIGNATURES, settings.ngram_words, settings.seed, repr(comparison))
    shards = zip(signatures.paths, signatures.manifests, strict=True)
    named = tuple((path.stem, manifest["sha256"]) for path, manifest in shards)
    return KnownPairs(dedup_directory(level.corpus) / "pairs" / NAME, asked, named)


def make_signatures(corpus: Path, settings: NearSettings, targets: Targets, cut: Bands, runner: Runner) -> Output:
    """For each documents shard a table (row, sketch, ngrams) of the files looked at, and a run of their band keys."""
    folder = dedup_directory(corpus) / "signatures"
    shards = list_shards(corpus)
    keep_only(folder, {shard.stem for shard in shards})
    asked = (SIGNATURES, settings.permutations, settings.ngram_words, settings.seed, cut.bands, cut.rows)
    tasks = []
    for shard in shards:
        exact = annotation_shard(corpus, EXACT, shard)
        target, digest = targets.get(shard.name, (None, None))
        more = [digest] if digest else []
        made_of = fingerprint(asked, finished_manifest(shard)["sha256"], finished_manifest(exact)["kept_rows"], *more)
        output = folder / f"{shard.stem}.arrow"
        tasks.append(ShardTask(output, made_of, write_signatures, (output, shard, exact, settings, cut, target)))
    return runner.run("signatures", tasks, reads_text=True)


def write_signatures(
    stream: BinaryIO,
    output: Path,
    shard: Path,
    exact: Path,
    settings: NearSettings,
    cut: Bands,
    target: Path | None = None,
) -> dict[str, Any]:
    """Shard function: signatures of the files of one documents shard that are no exact duplicates."""
    looked_at = is_null(read_parquet(exact, ["duplicate_of"]), "duplicate_of").astype(bool)
    factors = permutation_factors(settings.permutations, settings.seed)
    signed, counts = [np.empty((0, settings.permutations), np.uint32)], [np.empty(0, np.int64)]
    read_bytes = 0
    for flat, offsets in batches_of(shard, looked_at, target):
        signature, ngrams = text_signatures(flat, offsets, settings.ngram_words, factors)
        signed.append(signature)
        counts.append(ngrams)
        read_bytes += int(offsets[-1] - offsets[0])
    signature, ngrams = np.concatenate(signed), np.concatenate(counts)
    rows = np.flatnonzero(looked_at)
    write_columns(stream, sketch_table(rows, signature).append_column("ngrams", pa.array(ngrams)))
    files = write_side_run(side_path(output, BANDS), band_records(rows, signature, ngrams > 0, cut))
    size_bytes = stream.tell() + sum(entry["size_bytes"] for entry in files.values())
    return {"rows": len(rows), "read_bytes": read_bytes, "signature_bytes": size_bytes, "files": files}


def band_records(rows: np.ndarray, signature: np.ndarray, with_set: np.ndarray, cut: Bands) -> np.ndarray:
    """A record (band key, row) for each band of each signature; none for items without a set."""
    keys = band_keys(signature[with_set], cut)
    return records(BAND, key=keys.ravel(), row=np.repeat(rows[with_set], cut.bands))


def make_sets(
    corpus: Path, settings: NearSettings, targets: Targets, runner: Runner, work: Path, merged: Output
) -> Output:
    """For each documents shard a table (row, set) of the files that some pair needs."""
    tasks, common = [], (merged.side(NEEDED), settings.ngram_words)
    for index, shard in enumerate(list_shards(corpus)):
        output = work / "sets" / f"{shard.stem}.arrow"
        made_of = fingerprint(merged.digest, index)
        target = targets.get(shard.name, (None, None))[0]
        tasks.append(ShardTask(output, made_of, write_sets, (shard, target, shard_range(index)), common))
    return runner.run("sets of words", tasks, reads_text=merged.total("rows") > 0)


def write_sets(
    stream: BinaryIO,
    shard: Path,
    target: Path | None,
    keys: tuple[int, int],
    needed: Sequence[Path],
    ngram_words: int,
) -> dict[str, Any]:
    """Shard function: the sets of hashed n-grams of the rows that the runs `needed` name."""
    found, _ = read_runs(needed, keys)
    rows = found["key"][group_bounds(found["key"])[0]] - np.uint64(keys[0])
    sets = [text_set(text, ngram_words) for text in texts_at(shard, rows.astype(np.int64), target)]
    offsets = np.cumsum([0, *map(len, sets)])
    members = np.concatenate([np.empty(0, np.uint64), *sets])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(members))
    write_columns(stream, pa.table({"row": pa.array(rows, pa.uint32()), "set": lists}))
    return {"rows": len(rows)}


def write_annotation(
    stream: BinaryIO,
    _shard: Path,
    index: int,
    counters: dict[str, Any],
    whole: dict[str, Any],
    catalogue: Sequence[Path],
    signatures: Sequence[Path],
    clustered: Sequence[Path],
    similarity: Sequence[Path],
) -> dict[str, Any]:
    """Shard function: the annotation of one documents shard."""
    about, signed = open_columns(catalogue[index]), open_columns(signatures[index])
    keeper, cluster = clusters_of_shard(clustered, index, about.num_rows, catalogue, "id")
    highest = highest_of_shard(similarity, shard_range(index), about.num_rows)
    looked_at = np.full(about.num_rows, -1)
    looked_at[signed["row"].to_numpy()] = np.arange(signed.num_rows)
    table = pa.table(
        {
            "id": hex_of(about["id"]),
            "duplicate_of": hex_of(keeper),
            "cluster": hex_of(cluster),
            "similarity": pa.array(highest, mask=highest == 0),
            "ngrams": signed["ngrams"].take(pa.array(looked_at, mask=looked_at < 0)),
        }
    )
    sizes = about["size_bytes"].filter(table["duplicate_of"].is_valid())
    found = {"compared": signed.num_rows, "duplicates": len(sizes), "duplicate_bytes": sum(sizes.to_pylist())}
    return write_table(stream, table, counters | found | {"whole": whole})
