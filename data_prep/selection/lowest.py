"""The exact share of the documents with the lowest numbers, in P tasks none of which sees more than about 1/P of them.

Documents that have the number are sorted by (group, number, id) over the whole corpus, as a sample sort: each shard
writes its own sorted run and every so many-th of its keys; P - 1 of all those keys, evenly taken, are the borders of P
partitions. A group may lie in several: so first each partition counts its first and its last group, and what of
a group lies before a partition is then known to it. Where the borders are changes no result.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    mix,
    open_columns,
    open_run,
    positions,
    record_type,
    records,
    side_path,
    to_numpy,
    words_of,
    write_run,
    write_side_run,
)
from data_prep.selection.decide import ALONE, DROPS, LowestRule, decisions
from data_prep.selection.judge import group_key
from data_prep.selection.rules import Keyed
from data_prep.shards import ShardTask, fingerprint
from data_prep.storage import RemoteKeys, is_remote, open_to_read

_RECORD = record_type(group="<u8", number="<u8", id="<u8", id_low="<u8", row="<u4", left="u1")
_ORDER = ("key", "group", "number", "id", "id_low")
_SAMPLE = np.dtype([(name, "<u8") for name in _ORDER])
_SAMPLES = "borders.npy"
_PER_PARTITION = 64  # keys that each partition's borders are taken from, about
_RESULT = record_type(value="u1")
Bound = tuple[int, ...] | None


def cut_lowest(
    k: int, shares: Keyed, judged: Output, before: Sequence[LowestRule], runner: Runner, work: Path
) -> Output:
    """Runs by position (value: `ALONE`, `DROPS`) of what rule k drops. `before`: what such rules before it drop."""
    stride = max(1, runner.documents // (_PER_PARTITION * runner.partitions))
    digests = [rule.digest for rule in before]
    tasks, common = [], (k, tuple(before), stride)
    for index, (path, manifest) in enumerate(zip(judged.paths, judged.manifests, strict=True)):
        output = work / "sorted" / f"{path.stem}.npy"
        made_of = fingerprint(manifest["sha256"], k, digests, stride, index)
        tasks.append(ShardTask(output, made_of, sort_shard, (output, path, index), common))
    runs = runner.run(f"numbers of rule {k + 1}", tasks)
    borders = _borders(runs, runner.partitions)
    ranges = list(zip([None, *borders], [*borders, None], strict=True))
    counts = _count(runs, ranges, runner, work)
    named = {words_of_key(group_key(value)): _exact(share) for value, share in shares.values.items()}
    tasks, common = [], (runs.paths, named, _exact(shares.default))
    for partition, (bounds, around) in enumerate(zip(ranges, _around(counts), strict=True)):
        output = work / "lowest" / f"{partition:05d}-of-{len(ranges):05d}.npy"
        made_of = fingerprint(runs.digest, bounds, around, sorted(map(list, named.items())), common[2])
        tasks.append(ShardTask(output, made_of, cut_partition, (bounds, around), common))
    return runner.run(f"lowest of rule {k + 1}", tasks)


def words_of_key(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")


def _exact(share: float) -> tuple[int, int]:
    """The fraction that the share's decimal digits say."""
    return Fraction(Decimal(repr(share))).as_integer_ratio()


def sort_shard(
    stream: BinaryIO, output: Path, judged: Path, index: int, k: int, before: Sequence[LowestRule], stride: int
) -> dict[str, Any]:
    """Shard function: a run of the documents that have the number, and whether the rules before leave them."""
    table = open_columns(judged)
    dropped, _ = decisions(table, index, before, k)
    has = table[f"number_{k}"].is_valid()
    rows = np.flatnonzero(has.to_numpy())
    groups, ids = words_of(table[f"group_{k}"].take(rows)), words_of(table["id"].take(rows))
    found = records(
        _RECORD,
        key=groups[:, 0],
        group=groups[:, 1],
        number=to_numpy(table[f"number_{k}"].take(rows)),
        id=ids[:, 0],
        id_low=ids[:, 1],
        row=rows,
        left=dropped[rows] < 0,
    )
    found = _ordered(found)
    sampled = found[int(mix(np.array([index + 1], np.uint64))[0]) % stride :: stride]  # of small shards some have none
    sample = np.empty(len(sampled), _SAMPLE)
    for name in _ORDER:
        sample[name] = sampled[name]
    return {**write_run(stream, found), "files": write_side_run(side_path(output, _SAMPLES), sample)}


def _ordered(found: np.ndarray) -> np.ndarray:
    return found[np.lexsort([found[name] for name in reversed(_ORDER)])]


def _borders(runs: Output, partitions: int) -> list[tuple[int, ...]]:
    """Up to P - 1 keys, in order: as many of all samples lie between two as between any other two."""
    if partitions == 1:
        return []
    samples = np.concatenate([np.array(open_run(path)) for path in runs.side(_SAMPLES)])
    samples = _ordered(samples)
    places = [len(samples) * partition // partitions for partition in range(1, partitions)]
    return list(dict.fromkeys(samples[place].item() for place in places if place < len(samples)))


def _read(runs: Sequence[Path], bounds: tuple[Bound, Bound]) -> tuple[np.ndarray, np.ndarray]:
    """The records between two keys of all runs, sorted, and the index of the run of each."""
    parts = [_slice_of(path, bounds) for path in runs]
    found = np.concatenate(parts)
    sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.lexsort([found[name] for name in reversed(_ORDER)])
    return found[order], sources[order]


def _slice_of(path: Path, bounds: tuple[Bound, Bound]) -> np.ndarray:
    if not is_remote(path):
        run = open_run(path)
        return np.array(run[slice(*_places(run, len(run), bounds, lambda i: run[i].item()))])
    with open_to_read(path) as stream:
        keys = RemoteKeys(stream)
        return keys.records(*_places(keys, len(keys), bounds, lambda i: keys.records(i, i + 1)[0].item()))


def _places(run: Any, length: int, bounds: tuple[Bound, Bound], key: Any) -> tuple[int, int]:
    lower, upper = bounds
    start = 0 if lower is None else bisect_left(range(length), lower, key=key)
    return start, length if upper is None else bisect_left(range(length), upper, key=key)


def _count(runs: Output, ranges: list[tuple[Bound, Bound]], runner: Runner, work: Path) -> list[dict[str, Any]]:
    """Of each partition: its first and its last group, and what it holds of them. One partition holds all there is."""
    if len(ranges) == 1:
        return [{"first": None, "last": None}]
    tasks, common = [], (runs.paths,)
    for partition, bounds in enumerate(ranges):
        output = work / "counted" / f"{partition:05d}-of-{len(ranges):05d}.npy"
        tasks.append(ShardTask(output, fingerprint(runs.digest, bounds), count_partition, (bounds,), common))
    return list(runner.run("sizes of groups", tasks).manifests)


def count_partition(stream: BinaryIO, bounds: tuple[Bound, Bound], runs: Sequence[Path]) -> dict[str, Any]:
    """Partition function: nothing but counters: the first and the last group as [its key, documents, those left]."""
    found, _ = _read(runs, bounds)
    write_run(stream, np.empty(0, _RESULT))
    starts, ends = group_bounds(found["key"], found["group"])

    def count(place: int) -> list[int] | None:
        if not len(starts):
            return None
        group = found[starts[place] : ends[place]]
        return [int(group["key"][0]), int(group["group"][0]), len(group), int(group["left"].sum())]

    return {"rows": len(found), "first": count(0), "last": count(-1)}


def _around(counts: Sequence[Mapping[str, Any]]) -> Iterator[list[list[int]]]:
    """For each partition, of its first and its last group: [group, documents before the partition and in all, the same
    of those left]."""
    ends = [{(end[0], end[1]): end[2:] for end in (count["first"], count["last"]) if end} for count in counts]
    totals: dict[tuple[int, int], list[int]] = {}
    for found in ends:
        _add(totals, found)
    before: dict[tuple[int, int], list[int]] = {}
    for found in ends:
        yield [[*group, *_interleaved(before.get(group, [0, 0]), totals[group])] for group in found]
        _add(before, found)


def _add(totals: dict[tuple[int, int], list[int]], found: Mapping[tuple[int, int], list[int]]) -> None:
    for group, numbers in found.items():
        totals[group] = [one + other for one, other in zip(totals.get(group, [0, 0]), numbers, strict=True)]


def _interleaved(before: list[int], totals: list[int]) -> list[int]:
    return [before[0], totals[0], before[1], totals[1]]


def cut_partition(
    stream: BinaryIO,
    bounds: tuple[Bound, Bound],
    around: Sequence[Sequence[int]],
    runs: Sequence[Path],
    named: Mapping[tuple[int, int], tuple[int, int]],
    default: tuple[int, int],
) -> dict[str, Any]:
    """Partition function: a run by position of what is among the floor(share x n) lowest of its group."""
    found, sources = _read(runs, bounds)
    starts, ends = group_bounds(found["key"], found["group"])
    known = {(entry[0], entry[1]): entry[2:] for entry in around}
    left = found["left"].astype(np.int64)
    value = np.zeros(len(found), np.uint8)
    for start, end in zip(starts, ends, strict=True):
        group = (int(found["key"][start]), int(found["group"][start]))
        part = left[start:end]
        size, size_left = len(part), int(part.sum())
        before, size, before_left, size_left = known.get(group, (0, size, 0, size_left))
        over, under = named.get(group, default)
        alone = size * over // under - before
        value[start : start + max(0, min(alone, len(part)))] |= ALONE
        drops = size_left * over // under - before_left
        value[start:end][(part == 1) & (np.cumsum(part) <= drops)] |= DROPS
    chosen = value > 0
    where = positions(sources[chosen], found["row"][chosen])
    return write_run(stream, records(_RESULT, key=where, value=value[chosen]))
