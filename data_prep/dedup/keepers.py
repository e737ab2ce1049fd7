"""Of each group of duplicates, which one is kept."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.partitions import group_bounds

Order = Sequence[tuple[str, str]]


def choose_keepers(groups: np.ndarray, earlier: np.ndarray, ranks: pa.Table, order: Order) -> np.ndarray:
    """For each member the index of the member of its group that comes first.

    Members that were kept before (`earlier`, 1 or 0) come first, then `order` decides over the columns of `ranks`:
    (name, "ascending" or "descending").
    """
    table = ranks.append_column("_group", pa.array(groups)).append_column("_earlier", pa.array(earlier))
    keys = [("_group", "ascending"), ("_earlier", "descending"), *order]
    sorted_ = pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)
    starts, stops = group_bounds(groups[sorted_])
    first = np.empty(len(groups), np.int64)
    first[sorted_] = np.repeat(sorted_[starts], stops - starts)
    return first
