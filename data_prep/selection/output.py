"""What a selection gives away: a table for each documents shard, and what each rule dropped of it, as sums."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.annotations import write_table
from data_prep.dedup.catalogue import hex_of
from data_prep.held_out import SPLITS
from data_prep.partitions import Output, Runner, group_bounds, open_columns, read_runs, side_path, to_numpy, write_run
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.selection.config import BOTH_SPLITS_RULE
from data_prep.selection.decide import flags_of_shard, held_out_rows
from data_prep.selection.judge import FAMILIES, NAMES
from data_prep.selection.repositories import repository_records
from data_prep.selection.rules import Condition
from data_prep.shards import ShardTask, fingerprint

_BOTH_SPLITS = Condition(BOTH_SPLITS_RULE, "held out, and of one cluster with a file that is trained on", "false")


def write_selected(
    stream: BinaryIO,
    judged: Path,
    decided: Path,
    index: int,
    languages: str,
    counters: Mapping[str, Any],
    names: Sequence[str],
    sides: Sequence[Path],
    both: Sequence[Path],
) -> dict[str, Any]:
    """Shard function: id, split, dropped_by and, where the selection redacts, what is replaced.

    `names`: of the rules; `languages`: one a line. `counts` is JSON of [in, train, held out, dropped by each rule and
    on both sides, dropped by each rule alone; documents, bytes; languages]: text, since all shards' are held at once.
    """
    table, choices = open_columns(judged), open_columns(decided)
    dropped = to_numpy(choices["dropped"]).astype(np.int64)
    held = held_out_rows(sides, index, to_numpy(table["repository"]))
    dropped[flags_of_shard(both, index, len(dropped)) > 0] = len(names)
    left = dropped < 0
    rules = pa.array([*names, BOTH_SPLITS_RULE], pa.string())
    columns = {
        "id": hex_of(table["id"]),
        "split": pa.array(SPLITS).take(pa.array(held.astype(np.int8), mask=~left)),
        "dropped_by": rules.take(pa.array(dropped, mask=left)),
    }
    if REDACTIONS in table.column_names:
        columns[REDACTIONS] = table[REDACTIONS]
    language, sizes = to_numpy(table["language"]).astype(np.int64), to_numpy(table["size_bytes"])
    kinds = languages.count("\n") + 1

    def amounts(chosen: np.ndarray) -> list[list[int]]:
        size = np.zeros(kinds, np.int64)
        np.add.at(size, language[chosen], sizes[chosen])
        return [np.bincount(language[chosen], minlength=kinds).tolist(), size.tolist()]

    counts = [
        amounts(np.ones(len(dropped), bool)),
        *(amounts(left & side) for side in (~held, held)),
        *(amounts(dropped == k) for k in range(len(names) + 1)),
        *(amounts(_alone(table, choices, k)) for k in range(len(names))),
    ]
    found = {"languages": languages, "counts": json.dumps(counts, separators=(",", ":"))}
    return write_table(stream, pa.table(columns), {**counters, **found})


def _alone(table: pa.Table, choices: pa.Table, k: int) -> np.ndarray:
    name = f"alone_{k}"
    return to_numpy((choices if name in choices.column_names else table)[name])


def waterfall(
    rules: Sequence[Condition], counts: Sequence[Mapping[str, Any]], without: Sequence[int | None], left: Sequence[int]
) -> dict[str, Any]:
    """Documents and bytes in, dropped by each rule in their order and alone, left for each split; all, and by language.

    `counts`: manifests of `write_selected`. `without`: of a rule that looks at a number, the documents that have none,
    which it therefore does not judge. `left`: repositories that are left, of each split.
    """
    languages = _by_language(rules, counts)
    on_both = any(BOTH_SPLITS_RULE in entry["dropped"] for entry in languages.values())
    dropped = []
    for k, rule in enumerate([*rules, *([_BOTH_SPLITS] if on_both else [])]):
        rows = [entry["dropped"][rule.name] for entry in languages.values() if rule.name in entry["dropped"]]
        step = {"rule": rule.name, "drop": rule.text, **_sum(rows)}
        step["alone"] = None if rule is _BOTH_SPLITS else _sum([row["alone"] for row in rows])
        if rule.number:
            step["without"] = without[k]
        dropped.append(step)
    sides = {
        split: {"repositories": repositories, **_sum([entry[split] for entry in languages.values()])}
        for split, repositories in zip(SPLITS, left, strict=True)
    }
    return {
        "documents_in": _sum([entry["in"] for entry in languages.values()]),
        "dropped": dropped,
        "left": sides,
        "languages": languages,
    }


def _by_language(rules: Sequence[Condition], counts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Language, largest first, -> in, train, held_out, and what each rule dropped where it would have dropped any."""
    totals: dict[str, np.ndarray] = {}
    for shard in counts:
        amounts = np.array(json.loads(shard["counts"]), np.int64)
        for at, language in enumerate(shard["languages"].split("\n")):
            totals[language] = totals.get(language, 0) + amounts[:, :, at]
    totals.pop("", None)  # of shards without documents
    languages: dict[str, dict[str, Any]] = {}
    for language, found in sorted(totals.items(), key=lambda item: (-item[1][0, 1], item[0])):
        entry: dict[str, Any] = {"in": _amount(*found[0])}
        entry |= {split: _amount(*amount) for split, amount in zip(SPLITS, found[1:3], strict=True)}
        entry["dropped"] = {}
        ordered = found[3 : 4 + len(rules)]
        alone = [*found[4 + len(rules) :], np.zeros(2, np.int64)]
        for rule, one, other in zip([*rules, _BOTH_SPLITS], ordered, alone, strict=True):
            if one[0] or other[0]:
                entry["dropped"][rule.name] = {**_amount(*one), "alone": _amount(*other)}
        languages[language] = entry
    return languages


def _amount(documents: int = 0, size_bytes: int = 0) -> dict[str, int]:
    return {"documents": int(documents), "size_bytes": int(size_bytes)}


def _sum(amounts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(amount[key] for amount in amounts) for key in _amount()}


def count_held_out(
    judged: Output, decided: Output, sides: Sequence[Path], both: Output, seed: int, runner: Runner, work: Path
) -> int:
    """Repositories that are held out once what is on both sides is dropped."""
    tasks, common = [], (tuple(sides), both.paths, seed)
    for index, (path, choices) in enumerate(zip(judged.paths, decided.paths, strict=True)):
        made_of = fingerprint(judged.manifests[index]["sha256"], decided.manifests[index]["sha256"], both.digest, index)
        output = work / "still_held_out" / f"{path.stem}.npy"
        tasks.append(ShardTask(output, made_of, list_held_out, (path, choices, index), common))
    runs = runner.run("repositories still held out", tasks)
    counts = runner.reduce("their number", work / "number", count_names, runs.digest, (runs.paths,))
    return counts.total("names")


def list_held_out(
    stream: BinaryIO, judged: Path, decided: Path, index: int, sides: Sequence[Path], both: Sequence[Path], seed: int
) -> dict[str, Any]:
    """Shard function: a run of the distinct repositories that still have something held out."""
    table = open_columns(judged)
    left = to_numpy(open_columns(decided)["dropped"]) < 0
    left &= flags_of_shard(both, index, len(left)) == 0
    held = held_out_rows(sides, index, to_numpy(table["repository"]))
    names = open_columns(side_path(judged, NAMES))["repository"].to_pylist()
    none = open_columns(side_path(judged, FAMILIES)).slice(0, 0)
    return write_run(
        stream, repository_records(names, np.unique(to_numpy(table["repository"])[left & held]), none, seed)
    )


def count_names(stream: BinaryIO, _output: Path, key_range: tuple[int, int], runs: Sequence[Path]) -> dict[str, Any]:
    """Partition function: nothing but a counter, `names`: distinct repositories."""
    found, _ = read_runs(runs, key_range)
    words = [found[name] for name in ("key", "hash_1", "hash_2", "hash_3")]
    order = np.lexsort(words[::-1])
    starts, _ = group_bounds(*(word[order] for word in words))
    return {**write_run(stream, found[:0]), "names": len(starts)}
