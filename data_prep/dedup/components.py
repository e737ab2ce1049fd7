"""Connected components of a graph whose edges are spread over partitions.

Alternating large-star and small-star steps (Kiveris et al., Connected Components in MapReduce and Beyond, SoCC 2014):
in each, a partition looks at its nodes' edges and hangs neighbours onto the smallest of them. Components are never cut
or joined by that, and after O(log^2 n) rounds, in practice a handful, every one is a star around its smallest node. A
task holds 1/P of the edges; nothing is held for documents that have no near duplicate.

Edges are runs (key: one node, other: its neighbour), each edge in both directions; nodes are evenly spread uint64.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.partitions import Runner, group_bounds, mix, read_runs, record_type, records, write_run
from data_prep.shards import fingerprint

EDGE = record_type(other="<u8")


def connect(edges: Sequence[Path], digest: str, runner: Runner, work: Path) -> Sequence[Path]:
    """Runs of the same form in which every edge joins a node to the smallest of its component. `digest`: of `edges`."""
    seen = None
    for step in range(1, 1000):
        folder = work / f"round-{step:03d}"
        large = runner.reduce(f"components {step}", folder / "large", large_star, digest, (edges,))
        state = sorted((manifest["edges"], manifest["sum"]) for manifest in large.manifests)
        if state == seen:
            return edges
        seen = state
        small = runner.reduce(f"components {step}", folder / "small", small_star, large.digest, (large.paths,))
        edges, digest = small.paths, fingerprint(small.digest)
    raise AssertionError("components did not settle")


def both_ways(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Edges as records, in both directions."""
    return records(EDGE, key=np.concatenate([one, other]), other=np.concatenate([other, one]))


def large_star(stream: BinaryIO, _output: Path, key_range: tuple[int, int], edges: Sequence[Path]) -> dict[str, Any]:
    """Partition function: hangs each node's larger neighbours onto its smallest neighbour, or itself if smaller."""
    node, other, starts, stops = _neighbours(edges, key_range)
    smallest = np.repeat(np.minimum(node[starts], other[starts]), stops - starts)
    larger = other > node
    write_run(stream, records(EDGE, key=other[larger], other=smallest[larger]))
    with np.errstate(over="ignore"):
        total = int(np.sum(mix(node[~larger] ^ mix(other[~larger])), dtype=np.uint64))
    return {"rows": int(np.count_nonzero(larger)), "edges": int(np.count_nonzero(~larger)), "sum": total}


def small_star(stream: BinaryIO, _output: Path, key_range: tuple[int, int], edges: Sequence[Path]) -> dict[str, Any]:
    """Partition function: hangs each node and its neighbours, all smaller, onto the smallest of them."""
    node, other, starts, stops = _neighbours(edges, key_range)
    smallest = np.repeat(other[starts], stops - starts)
    first = np.zeros(len(node), bool)
    first[starts] = True
    hung = np.where(first, node, other)  # the smallest neighbour hangs onto itself: in its place the node
    return write_run(stream, both_ways(hung, smallest))


def _neighbours(
    edges: Sequence[Path], key_range: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct edges by node and neighbour, and where each node's begin and end."""
    found, _ = read_runs(edges, key_range)
    order = np.lexsort((found["other"], found["key"]))
    node, other = found["key"][order], found["other"][order]
    distinct, _ = group_bounds(node, other)
    node, other = node[distinct], other[distinct]
    return node, other, *group_bounds(node)
