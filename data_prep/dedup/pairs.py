"""From band keys to verified pairs: group, compare sketches, count what the sets share.

Everything here works on *items*, files or repositories alike. An item's `order` is a hash that does not depend on where
it stands; all choices follow it, so that shards, partitions and engines change nothing. The pairs are those of a
bucket (items that share a band's key): all of them, or for buckets of more than `neighbours` items, each with that many
after it. What such a bucket says about two items that are far apart in it, their other bands say too: a bucket that
large holds what many files have in common, such as a licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.dedup.components import both_ways
from data_prep.dedup.minhash import Bands, count_equal, overlaps
from data_prep.partitions import (
    ROW_BITS,
    by_shard,
    group_bounds,
    mix,
    open_columns,
    positions,
    read_runs,
    record_type,
    records,
    side_path,
    take_rows,
    to_numpy,
    write_run,
    write_side_run,
)

NEEDED, EDGES, SIMILARITY = "needed.npy", "edges.npy", "similarity.npy"
BAND = record_type(row="<u4")
PAIR = record_type(one="<u8", other="<u8", shared="<u4", total="<u4")
_NEEDED = record_type()
_SIMILARITY = record_type(value="<f4")
_CHUNK = 1 << 17  # members of buckets whose sketches are held at a time


@dataclass(frozen=True)
class Items:
    """Files or repositories, shard by shard.

    `bands` are runs (band key, row), `sketches` tables (row, sketch), `nodes` tables with a row for each item (order
    and what `keepers` needs). Pairs of which neither is of a `fresh` shard are known already, and left out.
    """

    bands: tuple[Path, ...]
    sketches: tuple[Path, ...]
    nodes: tuple[Path, ...]
    fresh: tuple[bool, ...]


@dataclass(frozen=True)
class Comparison:
    """When two items are near duplicates, and which pairs are looked at."""

    threshold: float
    cut: Bands
    floor: int  # equal bytes of the sketches, below which a pair is left out
    neighbours: int


def sketch(signature: np.ndarray) -> np.ndarray:
    """One byte of each value of a signature."""
    with np.errstate(over="ignore"):
        return ((signature * np.uint32(2654435761)) >> np.uint32(24)).astype(np.uint8)


def sketch_table(rows: np.ndarray, signature: np.ndarray) -> pa.Table:
    values = np.ascontiguousarray(sketch(signature))
    array = pa.Array.from_buffers(pa.binary(values.shape[1]), len(values), [None, pa.py_buffer(values)])
    return pa.table({"row": pa.array(rows, pa.uint32()), "sketch": array})


def find_candidates(
    stream: BinaryIO, _output: Path, key_range: tuple[int, int], items: Items, comparison: Comparison
) -> dict[str, Any]:
    """Partition function over band keys: pairs that share one of them and whose sketches do not speak against it."""
    keys, where = _band_members(items, key_range)
    same = np.zeros(len(keys) + 1, bool)
    same[1:-1] = keys[1:] == keys[:-1]
    repeated = same[1:] | same[:-1] if len(keys) else same[:0]
    keys, where = keys[repeated], where[repeated]
    order = to_numpy(take_rows(items.nodes, where, ["order"])["order"])
    sorted_ = np.lexsort((order, keys))
    keys, where, order = keys[sorted_], where[sorted_], order[sorted_]
    distinct, parts, size = np.empty(0, PAIR), [], 0
    for start in range(0, len(keys), _CHUNK):
        piece = slice(start, start + _CHUNK + comparison.neighbours)
        parts.append(_bucket_pairs(keys[piece], where[piece], order[piece], items, comparison))
        size += len(parts[-1])
        if size > len(distinct) + _CHUNK:  # near-equal items share many bands: each of their pairs is found many times
            distinct, parts, size = _distinct(np.concatenate([distinct, *parts])), [], 0
    return write_run(stream, _distinct(np.concatenate([distinct, *parts])))


def _band_members(items: Items, key_range: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and positions of all that share a band with an item of a fresh shard, by key."""
    fresh = [path for path, is_fresh in zip(items.bands, items.fresh, strict=True) if is_fresh]
    shards = np.flatnonzero(items.fresh)
    found, source = read_runs(fresh, key_range) if fresh else (np.empty(0, BAND), np.empty(0, np.int64))
    keys, where = found["key"], positions(shards[source], found["row"])
    if len(shards) == len(items.fresh):
        return keys, where
    wanted = keys[group_bounds(keys)[0]]
    all_keys, all_where = [keys], [where]
    for shard in np.flatnonzero(~np.array(items.fresh)):
        others, _ = read_runs([items.bands[shard]], key_range)
        at = np.searchsorted(wanted, others["key"])
        hit = at < len(wanted)
        hit[hit] = wanted[at[hit]] == others["key"][hit]
        all_keys.append(others["key"][hit])
        all_where.append(positions(shard, others["row"][hit]))
    keys, where = np.concatenate(all_keys), np.concatenate(all_where)
    order = np.argsort(keys, kind="stable")
    return keys[order], where[order]


def _bucket_pairs(
    keys: np.ndarray, where: np.ndarray, order: np.ndarray, items: Items, comparison: Comparison
) -> np.ndarray:
    """The pairs of a piece of sorted buckets; the last `neighbours` rows only as the right side of one."""
    fresh = np.array(items.fresh)[(where >> np.uint64(ROW_BITS)).astype(np.int64)]
    lefts, rights = [], []
    for distance in range(1, comparison.neighbours + 1):
        together = keys[distance:] == keys[:-distance]
        if not together.any():
            break
        left = np.flatnonzero(together & (fresh[distance:] | fresh[:-distance]))
        left = left[left < _CHUNK]
        lefts.append(left)
        rights.append(left + distance)
    left, right = (np.concatenate(side or [np.empty(0, np.int64)]) for side in (lefts, rights))
    members, number = np.unique(where, return_inverse=True)
    codes = _sorted_set(number[left].astype(np.uint64) << np.uint64(32) | number[right].astype(np.uint64))
    left, right = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
    likely = count_equal(_sketches(items.sketches, members), left, right) >= comparison.floor
    return pair_records(members[left[likely]], members[right[likely]])


def pair_records(one: np.ndarray, other: np.ndarray, shared: Any = 0, total: Any = 0) -> np.ndarray:
    """Pairs of positions, under a hash of both; a total of 0 says that the sets are still to be compared."""
    key = mix(one ^ mix(other))
    return records(PAIR, key=key, one=one, other=other, shared=shared, total=total)


def _sketches(tables: Sequence[Path], where: np.ndarray) -> np.ndarray:
    """Sketches of positions, uint8 [positions, permutations]."""
    out = None
    for shard, chosen, rows in by_shard(where):
        table = open_columns(tables[shard])
        column = table["sketch"].chunk(0)
        width = column.type.byte_width
        values = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)
        out = np.empty((len(where), width), np.uint8) if out is None else out
        out[chosen] = values[np.searchsorted(to_numpy(table["row"]), rows)]
    return out


def _sorted_set(values: np.ndarray) -> np.ndarray:
    """As `np.unique`, which hashes whole numbers: that takes several times as long, and as much memory."""
    values = np.sort(values)
    return values[group_bounds(values)[0]]


def _distinct(pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[np.argsort(pairs["key"], kind="stable")]
    first, _ = group_bounds(pairs["key"], pairs["one"], pairs["other"])
    return pairs[first]


def merge_candidates(
    stream: BinaryIO, output: Path, key_range: tuple[int, int], candidates: Sequence[Path]
) -> dict[str, Any]:
    """Partition function over pairs: each once; beside it whose sets are needed."""
    found, _ = read_runs(candidates, key_range)
    pairs = _distinct(found)
    needed = _sorted_set(np.concatenate([pairs["one"], pairs["other"]]))
    return write_run(stream, pairs) | {"files": write_side_run(side_path(output, NEEDED), records(_NEEDED, key=needed))}


def verify_pairs(
    stream: BinaryIO,
    output: Path,
    key_range: tuple[int, int],
    merged: Sequence[Path],
    known: Sequence[Path],
    sets: Sequence[Path],
    threshold: float,
) -> dict[str, Any]:
    """Partition function over pairs: those whose true Jaccard similarity is at least `threshold`, known ones included.

    Beside it the edges between nodes (mixed positions), and for each item the highest similarity that it reaches.
    """
    pairs, _ = read_runs(merged, key_range)
    shard = [(pairs[name] >> np.uint64(ROW_BITS)).astype(np.int64) for name in ("one", "other")]
    order = np.lexsort((pairs["one"], shard[1], shard[0]))
    for start, stop in zip(*group_bounds(shard[0][order], shard[1][order]), strict=True):
        chosen = order[start:stop]
        one, other = (_open_sets(sets[side[chosen[0]]]) for side in shard)
        left, right = _set_numbers(one[0], pairs["one"][chosen]), _set_numbers(other[0], pairs["other"][chosen])
        pairs["shared"][chosen], pairs["total"][chosen] = overlaps(one[1:], other[1:], left, right)
    near = pairs[pairs["shared"] / np.maximum(pairs["total"], 1) >= threshold]
    if known:
        near = np.concatenate([near, read_runs(known, key_range)[0]])
    counters = write_run(stream, near)
    one, other, value = near["one"], near["other"], (near["shared"] / near["total"]).astype(np.float32)
    files = write_side_run(side_path(output, EDGES), both_ways(mix(one), mix(other)))
    highest = _highest(np.concatenate([one, other]), np.concatenate([value, value]))
    files |= write_side_run(side_path(output, SIMILARITY), highest)
    return counters | {"files": files}


def _open_sets(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, offsets, members) of a table (row, set)."""
    table = open_columns(path)
    lists = table["set"].chunk(0)
    return to_numpy(table["row"]), lists.offsets.to_numpy(), lists.values.to_numpy()


def _set_numbers(rows: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.searchsorted(rows, (where & np.uint64(0xFFFFFFFF)).astype(rows.dtype))


def _highest(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    order = np.lexsort((-values, where))
    where, values = where[order], values[order]
    first, _ = group_bounds(where)
    return records(_SIMILARITY, key=where[first], value=values[first])


def highest_of_shard(runs: Sequence[Path], shard_keys: tuple[int, int], rows: int) -> np.ndarray:
    """The highest similarity that each row of a shard reaches, float32 [rows]; 0 where none."""
    found, _ = read_runs(runs, shard_keys)
    values = np.zeros(rows, np.float32)
    np.maximum.at(values, (found["key"] - np.uint64(shard_keys[0])).astype(np.int64), found["value"])
    return values
