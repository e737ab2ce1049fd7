"""Which rule drops which document, shard by shard, once every rule has answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.partitions import (
    open_columns,
    read_runs,
    shard_range,
    side_path,
    to_numpy,
    write_columns,
    write_side_run,
)
from data_prep.selection.judge import FAMILIES, NAMES
from data_prep.selection.repositories import RUN, repository_records

ALONE, DROPS = 1, 2  # of a `lowest` rule: it would drop this if there were no other; and among what others leave


@dataclass(frozen=True)
class LowestRule:
    """What a `lowest` drops: rule k, and runs by position."""

    k: int
    paths: tuple[Path, ...]
    digest: str


def flags_of_shard(runs: Sequence[Path], index: int, rows: int) -> np.ndarray:
    """The value (uint8) that runs by position have for each row of a shard; 0 where they have none."""
    found, _ = read_runs(runs, shard_range(index)) if runs else (None, None)
    flags = np.zeros(rows, np.uint8)
    if found is not None:
        flags[(found["key"] - np.uint64(shard_range(index)[0])).astype(np.int64)] = found["value"]
    return flags


def held_out_rows(sides: Sequence[Path], index: int, repositories: np.ndarray) -> np.ndarray:
    """Whether each row of a shard is of a repository that is held out; `repositories`: of each row, by index."""
    return flags_of_shard(sides, index, int(repositories.max()) + 1 if len(repositories) else 0)[repositories] > 0


def decisions(
    judged: pa.Table, index: int, lowest: Sequence[LowestRule], rules: int
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Of each row the first of so many rules that drops it (int16; -1: none), and which it would drop alone, by k."""
    results = {rule.k: flags_of_shard(rule.paths, index, judged.num_rows) for rule in lowest if rule.k < rules}
    dropped = np.full(judged.num_rows, -1, np.int16)
    alone = {}
    for k in range(rules):
        if k in results:
            alone[k], drops = (results[k] & flag > 0 for flag in (ALONE, DROPS))
        else:
            alone[k] = drops = to_numpy(judged[f"alone_{k}"])
        dropped[(dropped < 0) & drops] = k
    return dropped, alone


def decide_shard(
    stream: BinaryIO,
    output: Path,
    judged: Path,
    index: int,
    lowest: Sequence[LowestRule],
    rules: int,
    seed: int,
) -> dict[str, Any]:
    """Shard function: `dropped` (index of the rule, or -1), `alone_k` of `lowest` rules; a run of its repositories.

    Counters: how many each rule drops, how many are left, and of these those that are in a cluster or equal to another.
    """
    table = open_columns(judged)
    dropped, alone = decisions(table, index, lowest, rules)
    left = dropped < 0
    columns = {"dropped": pa.array(dropped)}
    columns |= {f"alone_{rule.k}": pa.array(alone[rule.k]) for rule in lowest}
    write_columns(stream, pa.table(columns))
    names = open_columns(side_path(judged, NAMES))["repository"].to_pylist()
    here = np.unique(to_numpy(table["repository"])[left])
    families = open_columns(side_path(judged, FAMILIES))
    found = repository_records(names, here, families, seed)
    clustered, equal = (column.is_valid().to_numpy() & left for column in (table["cluster"], table["equal_to"]))
    return {
        "rows": len(dropped),
        "dropped": np.bincount(dropped[~left], minlength=rules).tolist(),
        "left": int(left.sum()),
        "clustered": int(clustered.sum()),
        "equal": int((equal & ~clustered).sum()),
        "files": write_side_run(side_path(output, RUN), found),
    }
