"""Files with an oracle's scores, joined with their texts and split by repository into train and held out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.annotations import annotation_names, current_annotation
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.oracle.scores import read_scores

MINIMUM_TRAIN, MINIMUM_HELD_OUT = 50, 10
COLUMNS = ("id", "repository", "path", "language", "text", "sha256")


@dataclass(frozen=True)
class Examples:
    """Scored files: each a document (`COLUMNS`) with its `score`."""

    train: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    """What was left out: `unscored` (the oracle gave no score), `unknown` (no such document in the corpus), `changed`
    (its text is not the one that was scored), `over_most_bytes` (more than is to be held in memory), `on_both_sides`
    (held out, and a duplicate of one to train on)."""


def scores_of(examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([example["score"] for example in examples], np.float32)


def load_examples(
    corpus: Path, oracle: str, split: HeldOut, read_characters: int | None = None, most_bytes: int | None = None
) -> Examples:
    """The scored files of one oracle; of each text the first `read_characters`.

    A repository's side is a function of its name and the split's seed. Files of more than `most_bytes` in all are left
    out by a hash of the split's seed and their ids, whatever their side. Raises `DataError` where there are too few
    scores, none of documents of this corpus, or all the same.
    """
    table = read_scores(corpus, oracle)
    rated = table.filter(pc.is_valid(table["score"]))
    scored = rated if most_bytes is None else _within(rated, most_bytes, split.seed)
    scores = dict(zip(scored["id"].to_pylist(), scored["score"].to_pylist(), strict=True))
    digests = dict(zip(scored["id"].to_pylist(), scored["sha256"].to_pylist(), strict=True))
    found = [
        {**document, "score": scores[document["id"]]}
        for document in _documents(corpus, scores, read_characters)
        if document["sha256"] == digests[document["id"]]
    ]
    there = {example["id"] for example in found}
    known = there | set(_ids(corpus, scores))
    counts = {
        "unscored": table.num_rows - rated.num_rows,
        "unknown": len(scores.keys() - known),
        "changed": len(known - there),
        "over_most_bytes": rated.num_rows - scored.num_rows,
    }
    if scores and not found:
        raise DataError(
            f"{corpus}: of {len(scores):,} files that oracle {oracle!r} scored, none is a document of this corpus as "
            f"it is now ({counts['unknown']:,} unknown, {counts['changed']:,} changed); run `data oracle` again"
        )
    found.sort(key=lambda example: example["id"])
    train = [example for example in found if not split.holds_out(example["repository"])]
    held_out = [example for example in found if split.holds_out(example["repository"])]
    apart = _apart(corpus, train, held_out)
    counts["on_both_sides"] = len(held_out) - len(apart)
    _check(oracle, train, apart, counts["over_most_bytes"])
    return Examples(train, apart, counts)


def _within(scored: pa.Table, most_bytes: int, seed: int) -> pa.Table:
    """The files with the smallest hashes, as many as have `most_bytes` together."""
    keys = [hashlib.sha256(f"{seed}:in memory:{name}".encode()).digest() for name in scored["id"].to_pylist()]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    sizes = scored["size_bytes"].to_numpy()[order]
    return scored.take(order[np.cumsum(sizes) <= most_bytes])


def _check(
    oracle: str, train: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], over_most_bytes: int
) -> None:
    if len(train) < MINIMUM_TRAIN or len(held_out) < MINIMUM_HELD_OUT:
        more = f"raise most_bytes, which leaves out {over_most_bytes:,}" if over_most_bytes else "score more files"
        raise DataError(
            f"oracle {oracle!r}: {len(train):,} scored files to train on and {len(held_out):,} in held-out "
            f"repositories; at least {MINIMUM_TRAIN} and {MINIMUM_HELD_OUT} are needed: {more}"
        )
    if len({example["score"] for example in train}) == 1:
        raise DataError(f"oracle {oracle!r}: every file has the score {train[0]['score']:g}; nothing can be learnt")


def _ids(corpus: Path, wanted: Mapping[str, Any]) -> Iterator[str]:
    for shard in list_shards(corpus):
        yield from (name for name in pq.read_table(shard, columns=["id"])["id"].to_pylist() if name in wanted)


def _documents(corpus: Path, wanted: Mapping[str, Any], characters: int | None) -> Iterator[dict[str, Any]]:
    """Documents by id, reading the texts of row groups that hold one."""
    for shard in list_shards(corpus):
        with pq.ParquetFile(shard, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"], use_threads=False)["id"].to_pylist()
                rows = [row for row, name in enumerate(ids) if name in wanted]
                if rows:
                    table = file.read_row_group(group, columns=list(COLUMNS), use_threads=False).take(rows)
                    for document in table.to_pylist():
                        yield {**document, "text": document["text"][:characters]}


def _apart(
    corpus: Path, train: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Held-out files that are no duplicates of files to train on: equal, or of one cluster where those are known."""
    clusters = _clusters(corpus, {example["id"] for example in [*train, *held_out]})
    contents = {example["sha256"] for example in train}
    taken = {clusters[example["id"]] for example in train if example["id"] in clusters}

    def is_apart(example: Mapping[str, Any]) -> bool:
        return example["sha256"] not in contents and clusters.get(example["id"], "") not in taken

    return [example for example in held_out if is_apart(example)]


def _clusters(corpus: Path, ids: set[str]) -> dict[str, str]:
    """Document -> cluster of near duplicates, of those that are in one."""
    if "near_dedup" not in annotation_names(corpus):
        return {}
    try:
        shards = [path for path, _ in current_annotation(corpus, "near_dedup", corpus_fingerprint(corpus))]
    except DataError:  # out of date
        return {}
    found = {}
    for shard in shards:
        table = pq.read_table(shard, columns=["id", "cluster"])
        rows = zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True)
        found |= {name: cluster for name, cluster in rows if cluster is not None and name in ids}
    return found
