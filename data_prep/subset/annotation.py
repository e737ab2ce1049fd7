"""The annotation of a subset, and how scores are spread in it, in all, and in a random draw of the same size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.annotations import write_table
from data_prep.partitions import KEYS
from data_prep.storage import read_parquet
from data_prep.subset.state import Plan, ShardState, id_words, keys, probability_of, read_log_odds

FORMAT = "data_prep.subset.annotation/1"
BINS = 200  # of scores
GROUPS = ("all", "random", "subset", "seeds")
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "probability": pa.float32(),
        "recalled": pa.bool_(),
        "seed": pa.bool_(),
        "round": pa.int8(),
        "source": pa.string(),
        "sources": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class Spread:
    """How scores of a source are counted: from `low` to `high`, and the share that a random draw takes."""

    low: float
    high: float
    share: float


def annotate_shard(
    stream: BinaryIO,
    index: int,
    shard: Path,
    about: Mapping[str, Any],
    plans: Sequence[Plan],
    spreads: Sequence[Spread],
) -> dict[str, Any]:
    """Shard function: the annotation of one shard, from all rounds of all sources.

    `probability` and `source` are of the first source that recalls a document, else of the one that finds it most
    probable; null outside of all. `round`: the first that recalled it, by any source. `seed`: trained on as a positive.
    """
    ids = read_parquet(shard, ["id"], use_threads=False)["id"]
    words = id_words(ids)
    states = [ShardState(plan, index, words) for plan in plans]
    last = [plan.number - 1 for plan in plans]
    odds = np.array([read_log_odds(plan.rounds[-1].scores[index]) for plan in plans])
    recalled = np.array([state.recalled(number) for state, number in zip(states, last, strict=True)])
    first = np.full(len(words), 127)
    for state, number in zip(states, last, strict=True):
        for round_ in range(number, 0, -1):
            first = np.where(state.recalled(round_), np.minimum(first, round_), first)
    seeds = np.array([state.since > 0 for state in states])
    any_recalled, outside = recalled.any(0), np.isnan(odds).all(0)
    source = np.where(any_recalled, recalled.argmax(0), np.nan_to_num(odds, nan=-np.inf).argmax(0))
    names = np.array([plan.source.name for plan in plans], object)
    table = pa.table(
        {
            "id": ids.combine_chunks(),
            "probability": pa.array(probability_of(odds[source, np.arange(len(words))]), pa.float32(), mask=outside),
            "recalled": pa.array(any_recalled),
            "seed": pa.array(seeds.any(0)),
            "round": pa.array(first, pa.int8(), mask=first == 127),
            "source": pa.array(names[source], pa.string(), mask=outside),
            "sources": pa.array([names[here].tolist() for here in recalled.T], pa.list_(pa.string())),
        },
        SCHEMA,
    )
    size = np.array(states[0].facts["size_bytes"])
    counters = {
        "counts": {"recalled": int(any_recalled.sum()), "seed": int(seeds.any(0).sum())},
        "recalled_bytes": int(size[any_recalled].sum()),
        "spread": {
            state.plan.source.name: _spread(state, spread, found, seed)
            for state, spread, found, seed in zip(states, spreads, recalled, seeds, strict=True)
        },
    }
    return write_table(stream, table, {**counters, **about})


def _spread(state: ShardState, spread: Spread, recalled: np.ndarray, seeds: np.ndarray) -> dict[str, Any]:
    """Group -> documents, good ones, size_bytes, scored, total, and counts by bin as [bin, count] pairs."""
    facts = state.facts
    inside = facts["inside"]
    bound = np.uint64(min(KEYS - 1, int(spread.share * KEYS)))
    drawn = inside & (keys(state.words, state.plan.seed, state.plan.source.name, "random subset") < bound)
    score = facts["score"]
    width = (spread.high - spread.low) / BINS
    found = {}
    for name, mask in zip(GROUPS, (inside, drawn, recalled, seeds), strict=True):
        own = score[mask & ~np.isnan(score)]
        bins, counts = np.unique(np.clip((own - spread.low) / width, 0, BINS - 1).astype(int), return_counts=True)
        found[name] = {
            "documents": int(mask.sum()),
            "good": int((mask & (facts["good"] == 1)).sum()),
            "judged": int((mask & (facts["good"] < 2)).sum()),
            "size_bytes": int(facts["size_bytes"][mask].sum()),
            "scored": len(own),
            "total": float(own.sum()),
            "bins": np.stack([bins, counts], axis=1).tolist(),
        }
    return found


def sum_spreads(manifests: Iterable[Mapping[str, Any]], source: str, spread: Spread) -> dict[str, Any]:
    """Low, high, and for each group its numbers over all shards: documents, size_bytes, mean_score, good_share, bins.

    `by_score`: as many documents as the subset has, those with the highest scores.
    """
    groups = {name: {"bins": np.zeros(BINS)} for name in GROUPS}
    for manifest in manifests:
        for name, part in manifest["spread"][source].items():
            for key, value in part.items():
                if key == "bins":
                    for index, count in value:
                        groups[name]["bins"][index] += count
                else:
                    groups[name][key] = groups[name].get(key, 0) + value
    made = {name: _described(group) for name, group in groups.items()}
    made["by_score"] = _highest(groups["all"]["bins"], made["subset"]["documents"], spread)
    return {"low": spread.low, "high": spread.high, "groups": made}


def _described(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "documents": group.get("documents", 0),
        "size_bytes": group.get("size_bytes", 0),
        "mean_score": group["total"] / group["scored"] if group.get("scored") else None,
        "good_share": group["good"] / group["judged"] if group.get("judged") else None,
        "bins": group["bins"].astype(int).tolist(),
    }


def _highest(bins: np.ndarray, documents: int, spread: Spread) -> dict[str, Any]:
    """The mean is that of the bins' middles."""
    left, counts = documents, np.zeros(BINS)
    for index in range(BINS - 1, -1, -1):
        counts[index] = min(left, bins[index])
        left -= counts[index]
    middles = spread.low + (np.arange(BINS) + 0.5) * (spread.high - spread.low) / BINS
    taken = counts.sum()
    return {
        "documents": int(taken),
        "mean_score": float((counts * middles).sum() / taken) if taken else None,
        "least_score": float(middles[np.flatnonzero(counts)[0]]) if taken else None,
        "bins": counts.astype(int).tolist(),
    }
