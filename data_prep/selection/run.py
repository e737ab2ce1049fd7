"""The steps of a selection, in their order; each is tasks that any engine runs, and the bytes are the same on all.

1. judge: every shard, what rules say of its documents (kept for the next selection of this name)
2. lowest: for each such rule, P tasks over sorted numbers
3. decide: every shard, the first rule that drops each document
4. repositories: P tasks, which are held out
5. clusters: P tasks, what is held out and near to what is trained on
6. output: every shard, the table of the selection and its part of the waterfall
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import remove_orphans
from data_prep.database import open_shard
from data_prep.dedup.catalogue import keep_only
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.partitions import Output, Runner, default_partitions
from data_prep.selection.clusters import drop_from_other_side
from data_prep.selection.config import SelectionConfig
from data_prep.selection.decide import LowestRule, decide_shard
from data_prep.selection.judge import NAMES, Questions, check_rules, judge_shard
from data_prep.selection.lowest import cut_lowest
from data_prep.selection.output import count_held_out, waterfall, write_selected
from data_prep.selection.repositories import Sides, place_repositories
from data_prep.shards import ShardTask, fingerprint, finished_manifest
from data_prep.storage import remove_folder

ROW_BYTES = 250  # that a task of a global step holds for each document, at most about
TASK_BYTES = 128 << 20
POOL_ROWS = 1_000_000  # documents from which on processes are started; below, that takes longer than the work


@dataclass(frozen=True)
class Inputs:
    """What a selection is made of: documents shards, tables beside each (view -> shards), and what is asked."""

    shards: Sequence[Path]
    beside: Mapping[str, Sequence[Path]]
    questions: Questions
    config: SelectionConfig


@dataclass(frozen=True)
class Made:
    """What came of it: the tables, the names that stay held out, and the waterfall."""

    outputs: list[Path]
    pinned: list[str]
    waterfall: dict[str, Any]


def make_selection(
    inputs: Inputs,
    directory: Path,
    pinned: Sequence[str],
    workers: int,
    partitions: int | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Made:
    """Writes the selection's tables into `directory`. Raises `DataError`."""
    _check(inputs)
    runner = _make_runner(inputs, workers, partitions, engine, progress)
    work = directory / "work"
    judged = _judge(inputs, runner, work)
    lowest = _lowest(inputs, judged, runner, work)
    decided = _decide(inputs, judged, lowest, runner, work)
    names = judged.side(NAMES)
    sides = place_repositories(inputs.config.held_out, pinned, decided, names, runner, work)
    both = None
    if sides.held and (decided.total("clustered") or decided.total("equal")):
        both = drop_from_other_side(judged, decided, sides, runner, work)
    written = _write(inputs, directory, judged, decided, sides, both, runner)
    held = sides.held
    if both and both.total("rows"):
        held = count_held_out(judged, decided, sides.paths, both, inputs.config.held_out.seed, runner, work)
    without = [sum(numbers) if numbers[0] is not None else None
               for numbers in zip(*(manifest["without"] for manifest in judged.manifests), strict=True)]  # fmt: skip
    found = waterfall(inputs.questions.conditions, written.manifests, without, (sides.left - sides.held, held))
    for folder in work.glob("*"):
        if folder.name != "judged":
            remove_folder(folder)
    return Made(list(written.paths), sides.pinned, found)


def _check(inputs: Inputs) -> None:
    questions, config = inputs.questions, inputs.config
    if not inputs.shards:
        raise DataError(f"selection {questions.selection!r}: nothing is left: the corpus has no documents")
    first = {view: paths[0] for view, paths in inputs.beside.items()}
    with open_shard(inputs.shards[0], first, questions.memory_limit) as (database, joined):
        check_rules(database, joined, questions)
    if lacking := [name for name in config.annotations() if name not in questions.annotations]:
        raise DataError(
            f"selection {questions.selection!r}, variant {config.variant}: there is no {lacking[0]}; run `data dedup`"
        )


def _make_runner(
    inputs: Inputs, workers: int, partitions: int | None, engine: Engine | None, progress: Progress | None
) -> Runner:
    documents = sum(finished_manifest(shard)["rows"] for shard in inputs.shards)
    needed = default_partitions(documents, ROW_BYTES, TASK_BYTES)
    if documents < POOL_ROWS:
        workers = 1
    return Runner(workers, partitions or max(needed, workers), documents, engine, progress)


def _judge(inputs: Inputs, runner: Runner, work: Path) -> Output:
    keep_only(work / "judged", {shard.stem for shard in inputs.shards})
    identity, tasks = inputs.questions.identity(), []
    for index, shard in enumerate(inputs.shards):
        output = work / "judged" / f"{shard.stem}.arrow"
        beside = {view: paths[index] for view, paths in inputs.beside.items()}
        read = [finished_manifest(path)["sha256"] for path in (shard, *beside.values())]
        made_of = fingerprint(identity, read, list(beside))
        tasks.append(ShardTask(output, made_of, judge_shard, (output, shard, beside), (inputs.questions,)))
    return runner.run("judge", tasks)


def _lowest(inputs: Inputs, judged: Output, runner: Runner, work: Path) -> list[LowestRule]:
    found: list[LowestRule] = []
    for k, rule in enumerate(inputs.questions.conditions):
        if rule.drops:
            continue
        if len({manifest["kinds"][k] for manifest in judged.manifests} - {None}) > 1:
            raise DataError(
                f"selection {inputs.questions.selection!r}, rule {rule.name!r}: its numbers are whole in some shards "
                "and not in others; cast them: (...)::DOUBLE"
            )
        cut = cut_lowest(k, rule.shares, judged, found, runner, work / f"rule-{k}")
        found.append(LowestRule(k, cut.paths, cut.digest))
    return found


def _decide(inputs: Inputs, judged: Output, lowest: Sequence[LowestRule], runner: Runner, work: Path) -> Output:
    conditions, seed = inputs.questions.conditions, inputs.config.held_out.seed
    tasks, common = [], (tuple(lowest), len(conditions), seed)
    for index, (path, manifest) in enumerate(zip(judged.paths, judged.manifests, strict=True)):
        output = work / "decided" / path.name
        made_of = fingerprint(manifest["sha256"], manifest["files"], [[rule.k, rule.digest] for rule in lowest], seed)
        tasks.append(ShardTask(output, made_of, decide_shard, (output, path, index), common))
    decided = runner.run("decide", tasks)
    if not decided.total("left"):
        counts = [sum(one) for one in zip(*(manifest["dropped"] for manifest in decided.manifests), strict=True)]
        by_rule = [(rule.name, count) for rule, count in zip(conditions, counts, strict=True) if count]
        said = ", ".join(
            f"{name} dropped {count}" for name, count in sorted(by_rule, key=lambda one: (-one[1], one[0]))
        )
        raise DataError(
            f"selection {inputs.questions.selection!r}: nothing is left: {said or 'the corpus has no documents'}"
        )
    return decided


def _write(
    inputs: Inputs,
    directory: Path,
    judged: Output,
    decided: Output,
    sides: Sides,
    both: Output | None,
    runner: Runner,
) -> Output:
    remove_orphans(directory, inputs.shards)
    names = [rule.name for rule in inputs.questions.conditions]
    tasks, common = [], (names, sides.paths, both.paths if both else ())
    after = [names, sides.digest, both.digest if both else None]
    for index, shard in enumerate(inputs.shards):
        manifests = [made.manifests[index] for made in (judged, decided)]
        documents = finished_manifest(shard)["sha256"]
        made_of = fingerprint("data_prep.selected/2", documents, [one["sha256"] for one in manifests], index, after)
        args = (*(made.paths[index] for made in (judged, decided)), index, manifests[0]["languages"])
        counters = {"documents_sha256": documents}
        tasks.append(ShardTask(directory / shard.name, made_of, write_selected, (*args, counters), common))
    return runner.run("select", tasks)
