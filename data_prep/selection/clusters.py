"""What is held out and has an equal or near-equal file that is trained on, in P tasks by cluster.

A cluster's key is its id; that of an exact duplicate is its keeper's, or the keeper's own id where that is in none. So
where duplicates are left, they ask for their keepers by id first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    open_columns,
    positions,
    read_runs,
    record_type,
    records,
    side_path,
    to_numpy,
    words_of,
    write_run,
    write_side_run,
)
from data_prep.selection.decide import held_out_rows
from data_prep.selection.repositories import Sides
from data_prep.shards import ShardTask, fingerprint

_ASKS, _KNOWN = "asks.npy", "known.npy"
_LEFT, _HELD, _TAKES_PART = 1, 2, 4  # flags: left; held out; known under its own id, once something asks for it
_MEMBER = record_type(low="<u8", where="<u8", flags="u1")
_ABOUT = record_type(low="<u8", where="<u8", flags="u1", cluster="<u8", cluster_low="<u8")
_DROPPED = record_type(value="u1")


def drop_from_other_side(judged: Output, decided: Output, sides: Sides, runner: Runner, work: Path) -> Output:
    """Runs by position of the documents that are to be dropped."""
    asks = decided.total("equal") > 0
    tasks, common = [], (sides.paths, asks)
    for index, (path, choices) in enumerate(zip(judged.paths, decided.paths, strict=True)):
        output = work / "members" / f"{path.stem}.npy"
        shas = [made.manifests[index]["sha256"] for made in (judged, decided)]
        made_of = fingerprint(shas, sides.digest, asks, index)
        tasks.append(ShardTask(output, made_of, list_members, (output, path, choices, index), common))
    members = runner.run("members of clusters", tasks)
    runs, inputs = members.paths, members.digest
    if asks:
        args = (members.side(_ASKS), members.side(_KNOWN))
        answers = runner.reduce("keepers of equal files", work / "keepers", find_keepers, inputs, args)
        runs, inputs = runs + answers.paths, fingerprint(inputs, answers.digest)
    return runner.reduce("clusters on both sides", work / "both", find_on_both_sides, inputs, (runs,))


def list_members(
    stream: BinaryIO, output: Path, judged: Path, decided: Path, index: int, sides: Sequence[Path], asks: bool
) -> dict[str, Any]:
    """Shard function: a run by cluster of what is left; beside it those that ask for a keeper, and all by id."""
    table = open_columns(judged)
    left = to_numpy(open_columns(decided)["dropped"]) < 0
    held = held_out_rows(sides, index, to_numpy(table["repository"]))
    flags = (_LEFT * left + _HELD * held).astype(np.uint8)
    where = positions(index, np.arange(len(left)))
    clustered, equal = (table[name].is_valid().to_numpy() for name in ("cluster", "equal_to"))

    def members(chosen: np.ndarray, key: str) -> np.ndarray:
        words = words_of(table[key].filter(chosen))
        return records(_MEMBER, key=words[:, 0], low=words[:, 1], where=where[chosen], flags=flags[chosen])

    counters = write_run(stream, members(left & clustered, "cluster"))
    if not asks:
        return counters
    ids, clusters = words_of(table["id"]), words_of(table["id"])
    clusters[clustered] = words_of(table["cluster"].filter(clustered))
    flags |= (_TAKES_PART * (left & ~clustered & ~equal)).astype(np.uint8)
    known = records(_ABOUT, key=ids[:, 0], low=ids[:, 1], where=where, flags=flags, cluster=clusters[:, 0],
                    cluster_low=clusters[:, 1])  # fmt: skip
    asking = members(left & equal & ~clustered, "equal_to")
    files = write_side_run(side_path(output, _ASKS), asking) | write_side_run(side_path(output, _KNOWN), known)
    return {**counters, "files": files}


def find_keepers(
    stream: BinaryIO, _output: Path, key_range: tuple[int, int], asks: Sequence[Path], known: Sequence[Path]
) -> dict[str, Any]:
    """Partition function: a run by cluster of what asked for a keeper, and of keepers in no cluster that are left."""
    asking, _ = read_runs(asks, key_range)
    about, _ = read_runs(known, key_range)
    about = about[np.isin(about["key"], asking["key"])]
    keys, lows = (np.concatenate([about[name], asking[name]]) for name in ("key", "low"))
    order = np.lexsort((np.arange(len(keys)) >= len(about), lows, keys))  # of one id, what is known of it comes first
    starts, ends = group_bounds(keys[order], lows[order])
    rows = np.empty(len(keys), np.int64)
    rows[order] = np.repeat(np.where(order[starts] < len(about), order[starts], -1), ends - starts)
    rows = rows[len(about) :]
    asking, rows = asking[rows >= 0], rows[rows >= 0]
    keepers = about[np.unique(rows)]
    keepers = keepers[keepers["flags"] & _TAKES_PART > 0]
    keys, lows = (np.concatenate([about[name][rows], keepers[name]]) for name in ("cluster", "cluster_low"))
    where, flags = (np.concatenate([asking[name], keepers[name]]) for name in ("where", "flags"))
    return write_run(stream, records(_MEMBER, key=keys, low=lows, where=where, flags=flags))


def find_on_both_sides(
    stream: BinaryIO, _output: Path, key_range: tuple[int, int], runs: Sequence[Path]
) -> dict[str, Any]:
    """Partition function: a run by position of what is held out in a cluster of which something is trained on."""
    found, _ = read_runs(runs, key_range)
    found = found[np.lexsort((found["low"], found["key"]))]
    starts, ends = group_bounds(found["key"], found["low"])
    held = found["flags"] & _HELD > 0
    trained = np.logical_or.reduceat(~held, starts) if len(starts) else held
    where = found["where"][held & np.repeat(trained, ends - starts)]
    return write_run(stream, records(_DROPPED, key=where, value=np.ones(len(where), np.uint8)))
