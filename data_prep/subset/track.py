"""A source on its way through the rounds: the tasks of each step, and what came of them.

A task's `inputs` name all that its output depends on and nothing else. So a run that broke off goes on where it was,
and another setting makes anew only what follows from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.classify.preparation import VERSION as TEXT_VERSION
from data_prep.shards import ShardTask, fingerprint
from data_prep.subset import draws, facts, rounds
from data_prep.subset.measure import Tally, choose_threshold, measure
from data_prep.subset.settings import Source, SubsetConfig
from data_prep.subset.state import RANDOM, SEEDS, Plan, Round, found

_UNSEEN_BY_STATE = ("good", "score", "size_bytes")  # facts that decide nothing about what is drawn
Manifests = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Shards:
    """The documents shards of a corpus, and what SQL may name beside them."""

    paths: Sequence[Path]
    manifests: Manifests
    beside: Mapping[str, Sequence[Path]]
    """Annotation, or `selection` -> its shards."""
    beside_digests: Mapping[str, Sequence[str]]

    def digest(self, index: int) -> str:
        return self.manifests[index]["sha256"]


@dataclass
class Track:
    """One source. `plan` grows by a round with each `measured`; lists have an entry for each round."""

    source: Source
    config: SubsetConfig
    shards: Shards
    folder: Path
    plan: Plan
    facts: Manifests = ()
    counts: list[dict[str, Any]] = field(default_factory=list)
    """What could be drawn before each round, and after the last."""
    trained: list[dict[str, Any]] = field(default_factory=list)
    scores: list[Manifests] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    """How well each round recalls."""

    @classmethod
    def of(cls, source: Source, config: SubsetConfig, shards: Shards, folder: Path) -> "Track":
        paths = tuple(folder / "facts" / shard.name for shard in shards.paths)
        return cls(source, config, shards, folder, Plan(source, config.seed, paths))

    def _place(self, *names: str) -> Path:
        return self.folder.joinpath(f"round-{self.plan.number}", *names)

    def _known(self, index: int, *columns: str) -> dict[str, str]:
        """Digests of columns of facts of a shard."""
        return {name: self.facts[index]["columns"][name] for name in columns}

    def state(self, index: int) -> list[Any]:
        """All that `ShardState` makes of a shard follows from this."""
        columns = self._known(index, *(set(self.facts[index]["columns"]) - set(_UNSEEN_BY_STATE)))
        done = [
            [dict(round_.cuts), round_.threshold, scores[index]["sha256"]]
            for round_, scores in zip(self.plan.rounds, self.scores, strict=True)
        ]
        rules = [[rule.name, rule.recalled] for rule in self.source.hard_negatives]
        return [self.source.name, self.plan.seed, columns, done, rules, self.source.new_positives.probability]

    def answers(self, index: int) -> list[Any]:
        """All that is said of a shard in the end follows from this."""
        return [self.state(index), self._known(index, *_UNSEEN_BY_STATE)]

    def facts_tasks(self) -> list[ShardTask]:
        """Raises `DataError` for what is no SQL over these annotations."""
        selected = self.config.selection is not None
        question = facts.Question.of(self.source, self.config.score, self.config.validation, selected)
        named = [name for name in self.shards.beside if name in question.words()]
        facts.check(question, self.shards.paths[0], {name: self.shards.beside[name][0] for name in named})
        asked = [facts.FORMAT, question.columns, question.validation.model_dump(mode="json")]
        common = (question,)
        tasks = []
        for index, shard in enumerate(self.shards.paths):
            digests = {name: self.shards.beside_digests[name][index] for name in named}
            inputs = fingerprint(asked, self.shards.digest(index), digests)
            read = {name: self.shards.beside[name][index] for name in named}
            tasks.append(ShardTask(self.plan.facts[index], inputs, facts.write_facts, (shard, read), common))
        return tasks

    def count_tasks(self) -> list[ShardTask]:
        """What there is to draw for the next round, and what the last has found."""
        examples, common = self.config.examples, (self.plan, self.config.examples)
        tasks = []
        for index, shard in enumerate(self.shards.paths):
            inputs = fingerprint(draws.COUNT_FORMAT, self.state(index), self._known(index, "good", "score"), examples)
            output = self._place("count", f"{shard.stem}.json")
            tasks.append(ShardTask(output, inputs, draws.count_shard, (index, shard), common))
        return tasks

    def counted(self, tasks: Sequence[ShardTask]) -> None:
        self.counts.append(draws.sum_counts([task.output for task in tasks], self.config.examples))

    def wanting(self) -> str | None:
        """Why nothing can be trained, where that is so."""
        counts, least = self.counts[0]["counts"], self.config.minimum_seeds
        if counts[SEEDS] < least:
            return f"{counts[SEEDS]:,} seeds, {least:,} are needed (minimum_seeds)"
        return None if counts[RANDOM] else "every document is a seed: nothing is left for negatives"

    def draw_tasks(self) -> list[ShardTask]:
        counts, characters = self.counts[-1]["counts"], self.config.text.characters
        bounds = draws.bounds(draws.wanted(self.plan, self.config, counts), counts)
        common = (self.plan, bounds, characters)
        tasks = []
        for index, shard in enumerate(self.shards.paths):
            of = [self.shards.digest(index), self.state(index), bounds, characters]
            inputs, output = fingerprint(draws.DRAW_FORMAT, of), self._place("draw", shard.name)
            tasks.append(ShardTask(output, inputs, draws.draw_shard, (index, shard), common))
        return tasks

    def train_task(self, tasks: Sequence[ShardTask], drawn: Manifests) -> ShardTask:
        wanted = draws.wanted(self.plan, self.config, self.counts[-1]["counts"])
        classifier, text, least = self.config.classifier, self.config.text, self.config.least_examples
        of = [[manifest["sha256"] for manifest in drawn], wanted, TEXT_VERSION]
        settings = [classifier.model_dump(mode="json"), text.model_dump(mode="json"), least]
        output, paths = self._place("train.json"), [task.output for task in tasks]
        args = (output, paths, wanted, classifier, text, least)
        return ShardTask(output, fingerprint(rounds.TRAIN_FORMAT, of, settings), rounds.train, args)

    def has_trained(self, task: ShardTask) -> None:
        self.trained.append(json.loads(task.output.read_bytes()))

    def score_tasks(self) -> list[ShardTask]:
        model = self.trained[-1]["digest"]
        common = (self._place(rounds.MODEL), model)
        tasks = []
        for index, shard in enumerate(self.shards.paths):
            of = [self.shards.digest(index), self._known(index, "inside"), model]
            inputs, output = fingerprint(rounds.SCORE_FORMAT, of), self._place("scores", shard.name)
            tasks.append(ShardTask(output, inputs, rounds.score_shard, (shard, self.plan.facts[index]), common))
        return tasks

    def tally_tasks(self, tasks: Sequence[ShardTask], scored: Manifests) -> list[ShardTask]:
        self.scores.append(scored)
        made = []
        for index, (task, manifest) in enumerate(zip(tasks, scored, strict=True)):
            inputs = fingerprint(rounds.TALLY_FORMAT, manifest["sha256"], self._known(index, *rounds.TALLIED))
            output = self._place("tally", f"{task.output.stem}.npy")
            made.append(ShardTask(output, inputs, rounds.tally_shard, (self.plan.facts[index], task.output)))
        return made

    def measured(self, scores: Sequence[ShardTask], tallies: Sequence[ShardTask]) -> None:
        """Ends a round: chooses the threshold, and says what it recalls."""
        tally = Tally.read(task.output for task in tallies)
        threshold = choose_threshold(tally, self.source.threshold, self.source)
        self.found.append(measure(tally, threshold))
        done = Round(self.trained[-1]["cuts"], threshold, tuple(task.output for task in scores))
        self.plan = replace(self.plan, rounds=(*self.plan.rounds, done))

    def report(self) -> dict[str, Any]:
        """What is known of the source and its rounds."""
        made = []
        for number, (trained, measured) in enumerate(zip(self.trained, self.found, strict=True), 1):
            after = self.counts[number]
            about = {key: trained[key] for key in ("drawn", "positives", "negatives", "epochs")}
            made.append(
                {"round": number, **about, "trained_bytes": trained["size_bytes"], **measured}
                | {"recalled_again": after["recalled_again"] if number > 1 else None}
                | {"found": after["counts"][found(number)], "examples": after["examples"]}
            )
        return {
            "name": self.source.name,
            "source": self.source.model_dump(mode="json"),
            "documents": sum(manifest["documents"] for manifest in self.facts),
            "size_bytes": sum(manifest["size_bytes_inside"] for manifest in self.facts),
            "seeds": self.counts[0]["counts"][SEEDS],
            "examples": self.counts[0]["examples"],
            "rounds": made,
        }
