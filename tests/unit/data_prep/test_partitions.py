"""Runs are read back whole whatever P is, and components are those of union-find."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.components import both_ways, connect
from data_prep.partitions import (
    POOL_BYTES,
    POOL_ROWS,
    Runner,
    default_partitions,
    group_bounds,
    mix,
    partition_range,
    positions,
    read_runs,
    record_type,
    records,
    shard_range,
    take_rows,
    unmix,
    write_columns,
    write_run,
)

ROW = record_type(row="<u4")
words = st.integers(0, 2**64 - 1)


@given(st.lists(words, max_size=20))
def test_mixing_can_be_undone(values):
    values = np.array(values, np.uint64)
    assert np.array_equal(unmix(mix(values)), values)
    assert len(np.unique(mix(np.arange(1000, dtype=np.uint64)) >> np.uint64(44))) > 990  # evenly spread


@given(partitions=st.integers(1, 1000), key=words)
def test_every_key_is_in_one_partition(partitions, key):
    assert partition_range(0, partitions)[0] == 0 and partition_range(partitions - 1, partitions)[1] == 2**64
    partition = key * partitions >> 64
    low, high = partition_range(partition, partitions)
    assert low <= key < high == partition_range(partition + 1, partitions)[0]


@settings(max_examples=30, deadline=None)
@given(
    shards=st.lists(st.lists(st.one_of(words, st.integers(0, 5)), max_size=30), min_size=1, max_size=4),
    partitions=st.sampled_from([1, 2, 3, 16]),
)
def test_partitions_together_hold_every_record_once_and_sorted(tmp_path_factory, shards, partitions):
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for index, keys in enumerate(shards):
        paths.append(folder / f"{index}.npy")
        with open(paths[-1], "wb") as stream:
            write_run(stream, records(ROW, key=np.array(keys, np.uint64), row=np.arange(len(keys))))
    found = []
    for partition in range(partitions):
        part, source = read_runs(paths, partition_range(partition, partitions))
        assert list(part["key"]) == sorted(part["key"])
        found += [(int(key), int(shard), int(row)) for (key, row), shard in zip(part, source, strict=True)]
    expected = [(key, shard, row) for shard, keys in enumerate(shards) for row, key in enumerate(keys)]
    assert sorted(found) == sorted(expected)


def test_a_task_reads_only_its_slice(tmp_path):
    """Records outside of the range may be anything: they are not looked at."""
    keys = np.arange(0, 2**64, 2**54, dtype=np.uint64)
    with open(tmp_path / "run.npy", "wb") as stream:
        write_run(stream, records(ROW, key=keys, row=np.arange(len(keys))))
    sizes = [len(read_runs([tmp_path / "run.npy"], partition_range(p, 16))[0]) for p in range(16)]
    assert sizes == [len(keys) // 16] * 16


def test_rows_of_many_tables_in_any_order(tmp_path):
    paths = [tmp_path / f"{shard}.arrow" for shard in range(3)]
    for shard, path in enumerate(paths):
        names = pa.array([f"{shard}.{row}" for row in range(shard * 2)], pa.string())
        write_columns(str(path), pa.table({"name": names}))
    where = positions(np.array([2, 1, 2, 1, 2], np.uint64), np.array([3, 0, 0, 1, 3], np.uint32))
    assert take_rows(paths, where, ["name"])["name"].to_pylist() == ["2.3", "1.0", "2.0", "1.1", "2.3"]
    assert take_rows(paths, where[:0], ["name"]).num_rows == 0
    assert all(shard_range(2)[0] <= place < shard_range(2)[1] for place in where[[0, 2, 4]].tolist())


def test_bounds_of_groups():
    starts, stops = group_bounds(np.array([1, 1, 2, 2, 2]), np.array([5, 5, 5, 6, 6]))
    assert (starts.tolist(), stops.tolist()) == ([0, 2, 3], [2, 3, 5])
    assert [len(part) for part in group_bounds(np.empty(0))] == [0, 0]


def test_partitions_follow_the_size():
    assert default_partitions(10, 1000) == 1
    assert default_partitions(200_000_000, 2352) > 500


def union_find(edges):
    root = {}

    def find(node):
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for one, other in edges:
        one, other = find(one), find(other)
        root[max(one, other)] = min(one, other)
    return {node: find(node) for node in root}


def components(folder, edges, partitions):
    nodes = mix(np.array(edges, np.uint64).reshape(-1, 2))
    with open(folder / "edges.npy", "wb") as stream:
        write_run(stream, both_ways(nodes[:, 0], nodes[:, 1]))
    runner = Runner(1, partitions, len(edges))
    stars = connect((folder / "edges.npy",), "all", runner, folder / f"of-{partitions}")
    found, _ = read_runs(stars, (0, 2**64))
    leaves = found[found["other"] < found["key"]]
    assert len(np.unique(leaves["key"])) == len(leaves)  # one edge for each, to its centre
    return dict(zip(unmix(leaves["key"]).tolist(), unmix(leaves["other"]).tolist(), strict=True))


@settings(max_examples=12, deadline=None)
@given(edges=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda e: e[0] != e[1]), max_size=20))
@pytest.mark.parametrize("partitions", [1, 3])
def test_components_are_those_of_union_find(tmp_path_factory, partitions, edges):
    centres = components(tmp_path_factory.mktemp("edges"), edges, partitions)
    expected = union_find(edges)
    for one in expected:
        for other in expected:
            joined = centres.get(one, one) == centres.get(other, other)
            assert joined == (expected[one] == expected[other])


@pytest.mark.parametrize("shape", ["path", "star", "ring of stars"])
def test_large_components_settle(tmp_path, shape):
    count = 3000
    edges = {
        "path": [(i, i + 1) for i in range(count)],
        "star": [(7, i) for i in range(8, count)],
        "ring of stars": [
            *((i - i % 50, i) for i in range(count) if i % 50),
            *((i, (i + 50) % count) for i in range(0, count, 50)),
        ],
    }[shape]
    centres = components(tmp_path, edges, 4)
    assert len(set(centres.values())) == 1
    assert len(list((tmp_path / "of-4").iterdir())) < 25  # rounds


@pytest.mark.parametrize(
    ("documents", "text_bytes", "reads_text", "workers"),
    [
        (POOL_ROWS - 1, POOL_BYTES - 1, True, 1),
        (POOL_ROWS - 1, POOL_BYTES, False, 1),
        (POOL_ROWS - 1, POOL_BYTES, True, 4),
        (POOL_ROWS, POOL_BYTES - 1, True, 4),
        (POOL_ROWS, 0, False, 4),
    ],
)
def test_processes_are_started_where_there_is_enough_to_do(monkeypatch, documents, text_bytes, reads_text, workers):
    asked = []
    monkeypatch.setattr("data_prep.partitions.run_shards", lambda tasks, workers, *_: asked.append(workers) or [])
    Runner(4, 1, documents, text_bytes=text_bytes).run("a step", [], reads_text)
    assert asked == [workers]
