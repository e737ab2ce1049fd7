"""Repositories as sets of files: gathered from the catalogue, and their results brought back to their documents."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.dedup.catalogue import BY_REPOSITORY
from data_prep.dedup.earlier import flags_at
from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    open_columns,
    positions,
    read_runs,
    record_type,
    records,
    shard_range,
    side_path,
    take_rows,
    to_numpy,
    words_of,
    write_columns,
    write_run,
    write_side_run,
)
from data_prep.shards import ShardTask, fingerprint

ROW_BYTES = 400  # that a task holds for each document, at most about
BY_FILES = "files.npy"
_ROW = record_type(row="<u4")


def gather_repositories(catalogue: Output, earlier: Output | None, runner: Runner, work: Path) -> Output:
    """A table of repositories for each partition, and beside it runs by the digest of all their files (`BY_FILES`).

    Columns: row, order (uint64, a hash of the name), source, repository, name ("source/repository"), stars (the most
    that a file says), size_bytes, files, digest (of the multiset of files), earlier (flags of all files or-ed
    together), members (positions of the files) and set (the first 64 bits of each distinct file's SHA-256, sorted).
    """
    inputs = fingerprint("repositories/1", catalogue.digest, earlier.digest if earlier else None)
    args = (catalogue.side(BY_REPOSITORY), catalogue.paths, earlier.paths if earlier else ())
    return runner.reduce("repositories", work / "repositories", _gather, inputs, args, ".arrow")


def _gather(
    stream: BinaryIO,
    output: Path,
    key_range: tuple[int, int],
    runs: Sequence[Path],
    catalogue: Sequence[Path],
    earlier: Sequence[Path],
) -> dict[str, Any]:
    found, shards = read_runs(runs, key_range)
    where = positions(shards, found["row"])
    starts, ends = group_bounds(found["key"])
    about = take_rows(catalogue, where, ["digest", "size_bytes", "stars"])
    names = take_rows(catalogue, where[starts], ["source", "repository"])
    words = words_of(about["digest"])
    group = np.repeat(np.arange(len(starts)), ends - starts)
    words = words[np.lexsort((*words.T[::-1], group))]
    data = words.astype(">u8").tobytes()
    digests = [hashlib.sha256(data[32 * a : 32 * b]).digest() for a, b in zip(starts, ends, strict=True)]
    distinct, _ = group_bounds(words[:, 0], group)
    offsets = np.searchsorted(distinct, [*starts, len(found)])
    table = pa.table(
        {
            "order": pa.array(found["key"][starts]),
            "source": names["source"],
            "repository": names["repository"],
            "name": pa.array(
                [f"{s}/{r}" for s, r in zip(*(c.to_pylist() for c in names.columns), strict=True)], pa.string()
            ),
            "stars": pa.array(_of_groups(np.maximum, to_numpy(about["stars"]), starts)),
            "size_bytes": pa.array(_of_groups(np.add, to_numpy(about["size_bytes"]), starts)),
            "files": pa.array(ends - starts),
            "digest": pa.array(digests, pa.binary(32)),
            "earlier": pa.array(_of_groups(np.bitwise_or, flags_at(earlier, where), starts)),
            "members": _lists(np.append(starts, len(found)), where),
            "row": pa.array(np.arange(len(starts)), pa.uint32()),
            "set": _lists(offsets, words[distinct, 0]),
        }
    )
    write_columns(stream, table)
    keys = words_of(table["digest"])[:, 0]
    return {
        "rows": table.num_rows,
        "files": write_side_run(side_path(output, BY_FILES), records(_ROW, key=keys, row=np.arange(len(keys)))),
    }


def _of_groups(function: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return function.reduceat(values, starts) if len(starts) else values[:0]


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, pa.uint64()))


def lists_of(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as (offsets int64 [rows + 1], values)."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return array.offsets.to_numpy(), array.values.to_numpy()


def spread_to_documents(
    label: str, repositories: Output, results: Sequence[Path], digest: str, runner: Runner, folder: Path
) -> Output:
    """Turns runs by position of repositories into runs by position of all their documents; other fields are kept.

    `digest` stands for the results.
    """
    tasks, common = [], (results,)
    for index, path in enumerate(repositories.paths):
        output = folder / f"{path.stem}.npy"
        made_of = fingerprint(repositories.digest, digest, index)
        tasks.append(ShardTask(output, made_of, _spread, (path, index), common))
    return runner.run(label, tasks)


def _spread(stream: BinaryIO, table: Path, index: int, results: Sequence[Path]) -> dict[str, Any]:
    found, _ = read_runs(results, shard_range(index))
    rows = (found["key"] - np.uint64(shard_range(index)[0])).astype(np.int64)
    offsets, members = lists_of(open_columns(table)["members"])
    parts = [members[offsets[row] : offsets[row + 1]] for row in rows]
    spread = np.repeat(found, [len(part) for part in parts])
    spread["key"] = np.concatenate([members[:0], *parts])
    return write_run(stream, spread)
