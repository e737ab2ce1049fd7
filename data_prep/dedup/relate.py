"""From items with band keys to clusters with keepers: the same steps for files and for repositories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.dedup.components import connect
from data_prep.dedup.earlier import flags_at
from data_prep.dedup.keepers import Order, choose_keepers
from data_prep.dedup.minhash import choose_bands, estimate_floor
from data_prep.dedup.pairs import (
    EDGES,
    SIMILARITY,
    Comparison,
    Items,
    find_candidates,
    merge_candidates,
    verify_pairs,
)
from data_prep.dedup.settings import NearSettings
from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    read_runs,
    record_type,
    records,
    shard_range,
    take_rows,
    unmix,
    write_run,
)
from data_prep.shards import fingerprint

_CLUSTERED = record_type(keeper="<u8", cluster="<u8", kept="u1")


@dataclass(frozen=True)
class Relations:
    """Runs by position: of each item in a cluster its keeper and the cluster's first (positions), and similarities."""

    clustered: Output
    similarity: tuple[Path, ...]
    near: Output
    candidates: int

    def numbers(self, permutations: int, comparison: Comparison) -> dict[str, Any]:
        """What to tell of the whole."""
        cut = comparison.cut
        curve = {f"{s / 20:.2f}": cut.probability(s / 20) for s in range(6, 20)}
        return {
            "threshold": comparison.threshold,
            "permutations": permutations,
            "bands": cut.bands,
            "rows": cut.rows,
            "found_at_threshold": cut.probability(comparison.threshold),
            "found_at": curve,
            "candidate_pairs": self.candidates,
            "near_pairs": self.near.total("rows"),
            "clusters": self.clustered.total("clusters"),
            "clusters_with_several_keepers": self.clustered.total("several_keepers"),
        }


@dataclass(frozen=True)
class Ranking:
    """Who is kept: first what was kept before, by files of flags or a column (0 or 1) of the nodes; then by `order`."""

    order: Order
    earlier: tuple[Path, ...] = ()
    earlier_column: str | None = None


def compare_at(permutations: int, threshold: float, recall: float, settings: NearSettings) -> Comparison:
    """The comparison that finds pairs at `threshold` with probability `recall`."""
    cut = choose_bands(permutations, threshold, recall)
    floor = estimate_floor(permutations, threshold, settings.estimate_deviations)
    return Comparison(threshold, cut, floor, settings.neighbours)


def relate(
    items: Items,
    digest: str,
    comparison: Comparison,
    sets: Callable[[Output], Output],
    known: Output,
    ranking: Ranking,
    runner: Runner,
    work: Path,
) -> Relations:
    """Finds all pairs of near duplicates, connects them and chooses keepers.

    `digest` stands for the items. `sets(merged)` makes the tables (row, set) of the items that merged candidates need.
    `known` are near pairs of items of which none is fresh.
    """
    inputs = fingerprint(digest, repr(comparison), items.fresh)
    candidates = runner.reduce("candidates", work / "candidates", find_candidates, inputs, (items, comparison))
    args = (candidates.paths,)
    merged = runner.reduce("pairs", work / "pairs", merge_candidates, candidates.digest, args)
    made_sets = sets(merged)
    args = (merged.paths, known.paths, made_sets.paths, comparison.threshold)
    inputs = fingerprint(merged.digest, known.digest, made_sets.digest, comparison.threshold)
    near = runner.reduce("similarities", work / "near", verify_pairs, inputs, args)
    stars = connect(near.side(EDGES), near.digest, runner, work / "components")
    inputs = fingerprint(near.digest, repr(ranking))
    clustered = runner.reduce("keepers", work / "keepers", find_keepers, inputs, (stars, items.nodes, ranking))
    return Relations(clustered, near.side(SIMILARITY), near, merged.total("rows"))


def find_keepers(
    stream: BinaryIO,
    _output: Path,
    key_range: tuple[int, int],
    stars: Sequence[Path],
    nodes: Sequence[Path],
    ranking: Ranking,
) -> dict[str, Any]:
    """Partition function over stars: a run (position, its keeper, the first of its cluster) of all that are clustered.

    Items that were kept before stay: where new data connects clusters, each keeps its keeper.
    """
    found, _ = read_runs(stars, key_range)
    found = found[found["other"] > found["key"]]  # the star of a centre; the other half belongs to the leaves
    centres, _ = group_bounds(found["key"])
    where = unmix(np.concatenate([found["key"][centres], found["other"]]))
    groups = np.concatenate([found["key"][centres], found["key"]])
    ranks = take_rows(nodes, where, [name for name, _ in ranking.order])
    if ranking.earlier_column:
        earlier = take_rows(nodes, where, [ranking.earlier_column])[ranking.earlier_column].to_numpy()
    else:
        earlier = flags_at(ranking.earlier, where)
    first = choose_keepers(groups, earlier, ranks, ranking.order)
    keeper = np.where(earlier == 1, np.arange(len(where)), first)
    kept = keeper == np.arange(len(where))
    found = records(_CLUSTERED, key=where, keeper=where[keeper], cluster=where[first], kept=kept)
    keepers = np.bincount(first[kept], minlength=len(where))
    counters = {
        "clusters": len(centres),
        "dropped": int(np.count_nonzero(~kept)),
        "several_keepers": int(np.count_nonzero(keepers > 1)),
    }
    return write_run(stream, found) | counters


def clusters_of_shard(
    runs: Sequence[Path], shard: int, rows: int, tables: Sequence[Path], column: str
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """For each row of a shard `column` of its keeper (null: it is kept) and of its cluster's first (null: alone)."""
    found, _ = read_runs(runs, shard_range(shard))
    at = np.full(rows, -1)
    at[(found["key"] - np.uint64(shard_range(shard)[0])).astype(np.int64)] = np.arange(len(found))
    dropped = at >= 0
    dropped[dropped] = found["kept"][at[dropped]] == 0
    keepers, firsts = (take_rows(tables, found[field], [column])[column] for field in ("keeper", "cluster"))
    return keepers.take(pa.array(at, mask=~dropped)), firsts.take(pa.array(at, mask=at < 0))
