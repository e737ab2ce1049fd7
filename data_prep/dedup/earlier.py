"""Which documents an annotation kept when it was made before: new data does not take their place.

A shard whose documents are the same as then is asked row by row. Documents of shards that have changed since are found
by their id, in partitions, wherever they stand now.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.annotations import annotation_directory, annotation_shard
from data_prep.dedup.catalogue import BY_ID
from data_prep.documents import list_shards
from data_prep.partitions import (
    Output,
    Runner,
    by_shard,
    open_run,
    positions,
    read_runs,
    record_type,
    records,
    shard_range,
    write_run,
)
from data_prep.shards import ShardTask, fingerprint, finished_manifest
from data_prep.storage import read_parquet

_KEY_ONLY = record_type()

Kept = Callable[[pa.Table], np.ndarray]


def earlier_keepers(
    corpus: Path, name: str, settings: str, kept: Kept, catalogue: Output, runner: Runner, work: Path
) -> Output | None:
    """For each shard an array (uint8 [rows]): what `kept` said of its rows in the annotation as it stands, 0 for new.

    `kept(table) -> uint8 [rows]` is module-level. None where there is no annotation made with these `settings`.
    """
    found = {}
    for path in sorted(annotation_directory(corpus, name).glob("*.parquet")):
        manifest = finished_manifest(path)
        if manifest and manifest.get("settings") == settings:
            found[path] = manifest
    if not found:
        return None
    shards = list_shards(corpus)
    documents = {shard.stem: finished_manifest(shard)["sha256"] for shard in shards}
    same = {path.stem for path in found if found[path]["documents_sha256"] == documents.get(path.stem)}
    moved = _moved([path for path in found if path.stem not in same], found, kept, catalogue, same, runner, work)
    tasks, runs = [], (moved.paths if moved else (),)
    for index, shard in enumerate(shards):
        output = work / "earlier" / f"{shard.stem}.npy"
        rows = finished_manifest(shard)["rows"]
        if shard.stem in same:
            before = annotation_shard(corpus, name, shard)
            made_of = fingerprint(found[before]["sha256"])
            tasks.append(ShardTask(output, made_of, _from_annotation, (before, kept)))
        else:
            made_of = fingerprint(moved.digest if moved else None, index, rows)
            tasks.append(ShardTask(output, made_of, _from_runs, (index, rows), runs))
    return runner.run("earlier keepers", tasks)


def flags_at(earlier: Sequence[Path], where: np.ndarray) -> np.ndarray:
    """The flags (uint8) of positions; 0 where nothing is known of an earlier run."""
    flags = np.zeros(len(where), np.uint8)
    if earlier:
        for shard, chosen, rows in by_shard(where):
            flags[chosen] = open_run(earlier[shard])[rows]
    return flags


def _moved(
    before: list[Path],
    manifests: dict[Path, dict[str, Any]],
    kept: Kept,
    catalogue: Output,
    same: set[str],
    runner: Runner,
    work: Path,
) -> Output | None:
    """Flags of the documents of shards that have changed: runs by position, found by id."""
    changed = tuple(index for index, path in enumerate(catalogue.paths) if path.stem not in same)
    if not before or not changed:
        return None
    tasks = []
    for path in before:
        output = work / "before" / f"{path.stem}.npy"
        tasks.append(ShardTask(output, fingerprint(manifests[path]["sha256"]), _by_id, (path, kept)))
    known = runner.run("earlier documents", tasks)
    inputs = fingerprint(known.digest, catalogue.digest, changed)
    args = (known.paths, catalogue.side(BY_ID), changed)
    return runner.reduce("moved documents", work / "moved", _join_ids, inputs, args)


_FLAGGED = record_type(flags="u1")


def _by_id(stream: BinaryIO, annotation: Path, kept: Kept) -> dict[str, Any]:
    table = read_parquet(annotation)
    data = bytes.fromhex("".join(id_[:16] for id_ in table["id"].to_pylist()))
    keys = np.frombuffer(data, ">u8").astype(np.uint64)
    return write_run(stream, records(_FLAGGED, key=keys, flags=kept(table)))


def _join_ids(
    stream: BinaryIO,
    _output: Path,
    key_range: tuple[int, int],
    known_runs: Sequence[Path],
    id_runs: Sequence[Path],
    changed: Sequence[int],
) -> dict[str, Any]:
    known, _ = read_runs(known_runs, key_range)
    now, source = read_runs([id_runs[index] for index in changed], key_range)
    # The first 64 bits of an id: should two documents share them, one may wrongly count as kept before, no more.
    at = np.searchsorted(known["key"], now["key"])
    hit = at < len(known)
    hit[hit] = known["key"][at[hit]] == now["key"][hit]
    where = positions(np.array(changed)[source[hit]], now["row"][hit])
    return write_run(stream, records(_FLAGGED, key=where, flags=known["flags"][at[hit]]))


def _from_annotation(stream: BinaryIO, annotation: Path, kept: Kept) -> dict[str, Any]:
    return _write_flags(stream, kept(read_parquet(annotation)))


def _from_runs(stream: BinaryIO, shard: int, rows: int, runs: Sequence[Path]) -> dict[str, Any]:
    flags = np.zeros(rows, np.uint8)
    if runs:
        found, _ = read_runs(runs, shard_range(shard))
        flags[found["key"] - np.uint64(shard_range(shard)[0])] = found["flags"]
    return _write_flags(stream, flags)


def _write_flags(stream: BinaryIO, flags: np.ndarray) -> dict[str, Any]:
    np.lib.format.write_array(stream, flags, allow_pickle=False)
    return {"rows": len(flags)}


def is_null(table: pa.Table, column: str) -> np.ndarray:
    """Where a column is null, uint8 [rows]."""
    return pc.is_null(table[column]).combine_chunks().to_numpy(zero_copy_only=False).astype(np.uint8)
