"""Global questions in P tasks: rows are partitioned by a hash, and each task sees about 1/P of them.

A *run* is an `.npy` file of records sorted by their field `key` (uint64). Whatever splits a corpus writes one run for
each shard; task p of P reads from every run the records with floor(key * P / 2^64) = p, a slice that it finds by
bisection. So a run is written once whatever P is, and there are as many files as shards, not shards times P. Keys that
are hashes spread evenly; a run sorted by *position* (shard << 32 | row) is read back shard by shard in the same way.

What a task writes is a shard like any other (`data_prep.shards`): any engine runs it, and a killed run goes on with
those that are missing.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from data_prep.engines.base import Engine
from data_prep.shards import ShardTask, fingerprint, run_shards, write_atomic
from data_prep.storage import RemoteKeys, is_remote, open_array, open_to_read, read_arrow

KEYS = 1 << 64
ROW_BITS = 32
POOL_ROWS = 100_000  # documents from which on steps that read no text are worth starting processes for
POOL_BYTES = 512 << 20  # of text from which on steps that read it are: two seconds of work; a pool takes one to start


def record_type(**fields: str) -> np.dtype:
    """The dtype of a run's records: `key`, then `fields` (name -> numpy type)."""
    return np.dtype([("key", "<u8"), *fields.items()])


def partition_range(partition: int, partitions: int) -> tuple[int, int]:
    """The keys of a partition: from the first number to below the second."""
    return -(-partition * KEYS // partitions), -(-(partition + 1) * KEYS // partitions)


def shard_range(shard: int) -> tuple[int, int]:
    """The positions of a shard: from the first number to below the second."""
    return shard << ROW_BITS, (shard + 1) << ROW_BITS


def positions(shards: np.ndarray | int, rows: np.ndarray) -> np.ndarray:
    """Where rows stand, as uint64: shard << 32 | row."""
    return np.asarray(shards, np.uint64) << np.uint64(ROW_BITS) | rows.astype(np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that spreads any values evenly (the finalizer of splitmix64); `unmix` is its inverse."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def unmix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(31)) ^ (values >> np.uint64(62))) * np.uint64(0x319642B2D24D8EC3)
    values = (values ^ (values >> np.uint64(27)) ^ (values >> np.uint64(54))) * np.uint64(0x96DE1B173F119089)
    return values ^ (values >> np.uint64(30)) ^ (values >> np.uint64(60))


def records(dtype: np.dtype, **columns: np.ndarray) -> np.ndarray:
    """Records of `dtype` from columns of one length."""
    made = np.empty(len(columns["key"]), dtype)
    for name, values in columns.items():
        made[name] = values
    return made


def write_run(stream: BinaryIO, unsorted: np.ndarray) -> dict[str, Any]:
    """Sorts records by key and writes them; records of one key keep their order. Returns a shard's counters."""
    ordered = unsorted[np.argsort(unsorted["key"], kind="stable")]
    np.lib.format.write_array(stream, ordered, allow_pickle=False)
    return {"rows": len(ordered)}


def write_side_run(path: Path, unsorted: np.ndarray) -> dict[str, Any]:
    """Writes a further run of a task beside its output; returns its entry in the task's `files`."""
    digest = write_atomic(path, lambda stream: write_run(stream, unsorted))
    return {path.name: {"sha256": digest.sha256, "size_bytes": digest.size_bytes}}


def open_run(path: Path) -> np.ndarray:
    """A run (or any `.npy` file), mapped into memory: only what is looked at is read. A remote one is read whole."""
    return open_array(path)


def read_runs(paths: Sequence[Path], key_range: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The records of all runs whose keys are in a range, sorted by key, and the index of the run of each."""
    parts, sources = [], []
    for index, path in enumerate(paths):
        part = _slice_of(path, key_range)
        if len(part) or not parts:
            parts.append(part)
            sources.append(np.full(len(part), index, np.uint32))
    found, source = np.concatenate(parts), np.concatenate(sources)
    order = np.argsort(found["key"], kind="stable")  # merges what is sorted already
    return found[order], source[order]


def _slice_of(path: Path, key_range: tuple[int, int]) -> np.ndarray:
    def bounds(keys: Any) -> tuple[int, int]:
        start, stop = (bisect_left(keys, bound) if bound < KEYS else len(keys) for bound in key_range)
        return start, stop

    if not is_remote(path):
        run = open_run(path)
        start, stop = bounds(run["key"])
        return np.array(run[start:stop])
    with open_to_read(path) as stream:
        keys = RemoteKeys(stream)
        return keys.records(*bounds(keys))


def group_bounds(*sorted_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal rows begin and end (int64), in columns of one length that are sorted together."""
    length = len(sorted_columns[0])
    changed = np.ones(length, bool)
    changed[1:] = False
    for column in sorted_columns:
        changed[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changed)
    return starts, np.append(starts[1:], length)[: len(starts)]


def by_shard(where: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For positions in any order: (shard, indices into `where`, rows) of each shard that occurs."""
    order = np.argsort(where, kind="stable")
    shards = (where[order] >> np.uint64(ROW_BITS)).astype(np.int64)
    for start, stop in zip(*group_bounds(shards), strict=True):
        chosen = order[start:stop]
        yield int(shards[start]), chosen, (where[chosen] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def write_columns(path_or_stream: Any, table: pa.Table) -> None:
    """Writes a table as one uncompressed Arrow batch, from which single rows can be read without the others."""
    table = table.combine_chunks()
    with pa.ipc.new_file(path_or_stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


def open_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of `write_columns`, or some of its columns, mapped into memory; a remote one is read."""
    return read_arrow(path, columns)


def take_rows(paths: Sequence[Path], where: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Rows of the tables of many shards, in the order of the positions `where`."""
    parts, order = [open_columns(paths[0], columns).slice(0, 0)] if paths else [], []
    for shard, chosen, rows in by_shard(where):
        parts.append(open_columns(paths[shard], columns).take(pa.array(rows)))
        order.append(chosen)
    table = pa.concat_tables(parts).combine_chunks()
    back = np.empty(len(where), np.int64)
    back[np.concatenate(order) if order else []] = np.arange(len(where))
    return table.take(pa.array(back))


def take_results(
    runs: Sequence[Path], shard: int, rows: int, tables: Sequence[Path], column: str, field: str = "value"
) -> pa.ChunkedArray:
    """For each row of a shard, `column` at the position that `field` of the runs by position says for it, or null."""
    found, _ = read_runs(runs, shard_range(shard))
    at = np.full(rows, -1)
    at[(found["key"] - np.uint64(shard_range(shard)[0])).astype(np.int64)] = np.arange(len(found))
    return take_rows(tables, found[field], [column])[column].take(pa.array(at, mask=at < 0))


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers without nulls."""
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def words_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size binary values as big-endian words, uint64 [rows, width / 8]; they sort as the bytes do."""
    width = column.type.byte_width
    array = column.combine_chunks()
    if not len(array):
        return np.empty((0, width // 8), np.uint64)
    words = np.frombuffer(array.buffers()[1], ">u8", len(array) * width // 8, array.offset * width)
    return words.astype(np.uint64).reshape(-1, width // 8)


@dataclass(frozen=True)
class Output:
    """What a step of many tasks left: their files and manifests, in the order of the tasks."""

    paths: tuple[Path, ...]
    manifests: tuple[dict[str, Any], ...]

    @property
    def digest(self) -> str:
        return fingerprint([[manifest["sha256"], manifest.get("files", {})] for manifest in self.manifests])

    def side(self, name: str) -> tuple[Path, ...]:
        """The files that the tasks wrote beside their outputs with `write_side_run`, by their suffix."""
        return tuple(side_path(path, name) for path in self.paths)

    def total(self, counter: str) -> int:
        return sum(manifest[counter] for manifest in self.manifests)


def side_path(output: Path, name: str) -> Path:
    return output.with_name(f"{output.stem}.{name}")


@dataclass(frozen=True)
class Runner:
    """Runs the tasks of global steps: `workers` processes of this machine, or an `engine`; `partitions` is P.

    Starting processes takes longer than to read less than `POOL_BYTES` of text, or what steps that read none pass over
    for fewer than `POOL_ROWS` documents; these then run in this process.
    """

    workers: int
    partitions: int
    documents: int
    engine: Engine | None = None
    progress: Progress | None = None
    text_bytes: int = POOL_BYTES

    def run(self, label: str, tasks: Sequence[ShardTask], reads_text: bool = False) -> Output:
        large = self.documents >= POOL_ROWS or (reads_text and self.text_bytes >= POOL_BYTES)
        workers = self.workers if large else 1
        manifests = run_shards(tasks, workers, self.progress, label, self.engine)
        return Output(tuple(task.output for task in tasks), tuple(manifests))

    def reduce(
        self,
        label: str,
        folder: Path,
        function: Callable[..., Mapping[str, Any]],
        inputs: str,
        args: tuple[Any, ...],
        suffix: str = ".npy",
    ) -> Output:
        """One task for each partition: `function(stream, output, partition range, *args)` writes what it finds."""
        count = self.partitions
        tasks = []
        for partition in range(count):
            output = folder / f"{partition:05d}-of-{count:05d}{suffix}"
            made_of = fingerprint(inputs, partition, count)
            tasks.append(ShardTask(output, made_of, function, (output, partition_range(partition, count)), args))
        return self.run(label, tasks)


def default_partitions(rows: int, row_bytes: int, memory_bytes: int = 512 << 20) -> int:
    """How many tasks it takes for each to hold at most about `memory_bytes`, when it holds `row_bytes` per row."""
    return max(1, -(-rows * row_bytes // memory_bytes))
