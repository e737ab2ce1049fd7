"""Draws: which documents a round is trained on, by a keyed hash of seed, source, kind and id.

Of each kind those with the smallest hashes are taken. How many there are is counted first; so a shard need only give
those under a bound that lets a few more through than wanted, and whoever cuts exactly holds about as many keys as are
drawn, however large the corpus is.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import read_rows
from data_prep.partitions import KEYS
from data_prep.storage import open_parquet, read_bytes, read_parquet
from data_prep.subset.settings import SubsetConfig
from data_prep.subset.state import RANDOM, SEEDS, Plan, ShardState, id_words, is_positive, probability_of, read_log_odds

COUNT_FORMAT = "data_prep.subset.count/1"
DRAW_FORMAT = "data_prep.subset.draw/1"
WRONG = "recalled, not good"
_SPARE = 6  # standard deviations of how many hashes are under a bound
_ABOUT = ("id", "repository", "path", "language", "size_bytes")


def count_shard(stream: BinaryIO, index: int, shard: Path, plan: Plan, examples: int) -> dict[str, Any]:
    """Shard function: how many documents there are of each kind that the next round draws, and of what was recalled.

    Writes JSON: `counts`, `examples` (of kinds that the last round has changed, and `WRONG`, in held-out repositories:
    those with the smallest keys), and after a round `recalled` and `recalled_again` (by the round before it, too).
    """
    documents = read_parquet(shard, list(_ABOUT), use_threads=False)
    state = ShardState(plan, index, id_words(documents["id"]))
    kinds = {kind: state.candidates[kind] for kind in plan.kinds()}
    shown = {kind: kinds[kind] for kind in plan.changing_kinds()}
    said: dict[str, Any] = {"counts": {kind: int(mask.sum()) for kind, mask in kinds.items()}}
    if plan.rounds:
        recalled = [state.recalled(number) for number in range(1, plan.number)[-2:]]
        said["recalled"] = int(recalled[-1].sum())
        said["recalled_again"] = int(np.all(recalled, axis=0).sum()) if len(recalled) > 1 else 0
        shown[WRONG] = recalled[-1] & state.facts["validation"] & (state.facts["good"] == 0)
    said["examples"] = {kind: _examples(state, kind, mask, documents, examples) for kind, mask in shown.items()}
    stream.write((json.dumps(said, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    return {"rows": documents.num_rows}


def _examples(state: ShardState, kind: str, mask: np.ndarray, documents: pa.Table, most: int) -> list[dict[str, Any]]:
    rows = np.flatnonzero(mask)
    key = state.plan.key(state.words[rows], kind)
    first = np.argsort(key, kind="stable")[:most]
    rows, key = rows[first], key[first]
    score = state.facts["score"]
    odds = read_log_odds(state.plan.rounds[-1].scores[state.index]) if state.plan.rounds else None
    return [
        {
            **about,
            "place": [state.index, int(row)],
            "key": own,
            "score": None if np.isnan(score[row]) else float(score[row]),
            "probability": None if odds is None else round(float(probability_of(odds[row])), 4),
        }
        for row, own, about in zip(rows.tolist(), key.tolist(), documents.take(pa.array(rows)).to_pylist(), strict=True)
    ]


def sum_counts(outputs: Iterable[Path], examples: int) -> dict[str, Any]:
    """What `count_shard` wrote of all shards, as one."""
    total: dict[str, Any] = {"counts": {}, "recalled": 0, "recalled_again": 0, "examples": {}}
    for output in outputs:
        said = json.loads(read_bytes(output))
        for kind, count in said["counts"].items():
            total["counts"][kind] = total["counts"].get(kind, 0) + count
        for name in ("recalled", "recalled_again"):
            total[name] += said.get(name, 0)
        for kind, found in said["examples"].items():
            both = [*total["examples"].get(kind, ()), *found]
            total["examples"][kind] = sorted(both, key=lambda one: (one["key"], one["id"]))[:examples]
    return total


def wanted(plan: Plan, config: SubsetConfig, counts: Mapping[str, int]) -> dict[str, int]:
    """Kind -> how many the next round draws, of so many that there are."""
    source = plan.source
    most = {kind: source.seed_count if kind == SEEDS else source.new_positives.most for kind in counts}
    made = {kind: min(counts[kind], most[kind]) for kind in plan.kinds() if is_positive(kind)}
    positives = sum(made.values())
    for kind, rule in plan.hard_kinds().items():
        made[kind] = min(counts[kind], round(source.hard_negatives[rule].per_positive * positives))
    made[RANDOM] = min(counts[RANDOM], round(config.random_negatives * positives))
    return made


def bounds(wanted: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    """Kind -> the highest key that a shard gives: under it are a few more than wanted; kinds with none are left out."""
    made = {}
    for kind, count in wanted.items():
        if count:
            spare = count + _SPARE * math.sqrt(count) + 10
            made[kind] = KEYS - 1 if spare >= counts[kind] else int(spare * KEYS / counts[kind])
    return made


def draw_shard(
    stream: BinaryIO, index: int, shard: Path, plan: Plan, bounds: Mapping[str, int], characters: int
) -> dict[str, Any]:
    """Shard function: the documents of a shard that are under a bound: a column of keys for each kind, and `text`."""
    state = ShardState(plan, index, id_words(read_parquet(shard, ["id"], use_threads=False)["id"]))
    columns = {}
    for kind, bound in bounds.items():
        key = plan.key(state.words, kind)
        columns[kind] = pa.array(key, mask=~(state.candidates[kind] & (key <= np.uint64(bound))))
    table = pa.table(columns)
    given = np.any([column.is_valid().to_numpy() for column in table.columns], axis=0)
    schema = pa.schema([*(pa.field(kind, pa.uint64()) for kind in bounds), pa.field("text", pa.string())])
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows, documents in read_rows(shard, np.flatnonzero(given), ["text"]):
            cut = pa.array([text[:characters] for text in documents["text"].to_pylist()], pa.string())
            writer.write_table(table.take(pa.array(rows)).append_column("text", cut).cast(schema))
    return {"rows": int(given.sum())}


def cut(outputs: Sequence[Path], wanted: Mapping[str, int]) -> dict[str, int]:
    """Kind -> the highest key that is drawn, so that exactly as many are as wanted."""
    made = {}
    for kind, count in wanted.items():
        if count:
            parts = [read_parquet(output, [kind], use_threads=False)[kind].drop_null().to_numpy() for output in outputs]
            found = np.concatenate(parts)
            if count := min(count, len(found)):
                made[kind] = int(np.partition(found, count - 1)[count - 1])
    return made


def drawn(output: Path, cuts: Mapping[str, int]) -> Iterator[tuple[int, str, str]]:
    """(key, kind, text) of what a shard gave and is drawn; of several kinds, the first."""
    with open_parquet(output, pre_buffer=False) as file:
        for batch in file.iter_batches(256, use_threads=False):
            kind = np.full(batch.num_rows, -1)
            key = np.zeros(batch.num_rows, np.uint64)
            for number, (name, bound) in reversed(list(enumerate(cuts.items()))):
                column = batch[name]
                values = column.fill_null(0).to_numpy(zero_copy_only=False)
                here = column.is_valid().to_numpy(zero_copy_only=False) & (values <= np.uint64(bound))
                kind[here], key[here] = number, values[here]
            names = list(cuts)
            for row in np.flatnonzero(kind >= 0).tolist():
                yield int(key[row]), names[kind[row]], batch["text"][row].as_py()
