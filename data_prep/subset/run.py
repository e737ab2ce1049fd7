"""Find a subset: for each source rounds of drawing, training, scoring, measuring; then the annotation and a report.

Every step is made of shards that name what they were made from, so a run that broke off goes on, and another setting
makes anew only what depends on it. All sources go through a step together, which gives an engine more to do at a time.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import annotation_directory, annotation_names, current_annotation, remove_orphans
from data_prep.annotators.base import BUILT_IN
from data_prep.classify.preparation import VERSION as TEXT_VERSION
from data_prep.documents import SCHEMA, corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.partitions import POOL_ROWS
from data_prep.select import read_selection
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, run_shards
from data_prep.storage import as_path, is_remote, remove_folder
from data_prep.subset import annotation, draws, facts, rounds
from data_prep.subset.measure import Tally, choose_threshold, measure
from data_prep.subset.page import write_page
from data_prep.subset.settings import Source, SubsetConfig
from data_prep.subset.state import RANDOM, SEEDS, Plan, Round, found

__all__ = ["find_subset", "subset_directory"]

FORMAT = "data_prep.subset/1"
_UNSEEN_BY_STATE = ("good", "score", "size_bytes")  # facts that decide nothing about what is drawn
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = frozenset({*BUILT_IN, *SCHEMA.names, "documents", facts.SELECTION})


def subset_directory(corpus: Path, name: str) -> Path:
    return corpus / "subsets" / name


def find_subset(
    corpus: Path,
    config: SubsetConfig,
    name: str = "high_quality",
    workers: int = 1,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes `annotations/<name>`, and into `subsets/<name>` the rounds, `report.json` (returned) and `report.html`.

    Raises `DataError` for SQL over what the corpus does not have, and where no source has enough seeds.
    """
    corpus = as_path(corpus)
    if is_remote(corpus):
        raise DataError(f"{corpus}: subsets need a disk; copy the corpus there")
    others = annotation_directory(corpus, name).is_dir() and not subset_directory(corpus, name).is_dir()
    if not _NAME.fullmatch(name) or name in _TAKEN or others:
        raise DataError(f"subset name {name!r}: small letters, digits and '_', and the name of no other annotation")
    with lock_directory(corpus):
        steps = _Steps(corpus, name, config, workers, progress, engine)
        steps.clear()
        steps.write_facts()
        steps.count()
        steps.leave_out()
        for _ in range(config.rounds):
            steps.draw_and_train()
            steps.score_and_measure()
            steps.count()
        manifests = steps.annotate()
        report = steps.report(manifests)
        write_page(report, steps.shards, steps.folder)
        return report


@dataclass
class _Track:
    """A source on its way through the rounds."""

    source: Source
    folder: Path
    plan: Plan
    facts: list[dict[str, Any]] = field(default_factory=list)
    """Manifests."""
    scores: list[list[dict[str, Any]]] = field(default_factory=list)
    """Of each round, manifests."""
    trained: list[dict[str, Any]] = field(default_factory=list)
    """Of each round, what training wrote."""
    found: list[dict[str, Any]] = field(default_factory=list)
    """Of each round, how well it recalls."""
    counts: list[dict[str, Any]] = field(default_factory=list)
    """Before each round, and after the last."""
    left_out: str | None = None

    @property
    def round_folder(self) -> Path:
        return self.folder / f"round-{self.plan.number}"

    def known(self, index: int, *columns: str) -> dict[str, str]:
        """Digests of columns of facts of a shard."""
        return {name: self.facts[index]["columns"][name] for name in columns}

    def state(self, index: int) -> list[Any]:
        """All that `ShardState` makes of a shard follows from this."""
        columns = {name: value for name, value in self.facts[index]["columns"].items() if name not in _UNSEEN_BY_STATE}
        done = [
            [dict(round_.cuts), round_.threshold, scores[index]["sha256"]]
            for round_, scores in zip(self.plan.rounds, self.scores, strict=True)
        ]
        rules = [[rule.name, rule.recalled] for rule in self.source.hard_negatives]
        probability = self.source.new_positives.probability
        return [self.source.name, self.plan.seed, columns, done, rules, probability]


class _Steps:
    """The steps of a run, each over all sources that are not left out."""

    def __init__(
        self,
        corpus: Path,
        name: str,
        config: SubsetConfig,
        workers: int,
        progress: Progress | None,
        engine: Engine | None,
    ) -> None:
        self.corpus, self.name, self.config = corpus, name, config
        self.workers, self.progress, self.engine = workers, progress, engine
        self.folder = subset_directory(corpus, name)
        self.shards = list_shards(corpus)
        self.documents = [finished_manifest(shard) for shard in self.shards]
        self.tracks = [
            _Track(source, self.folder / source.name, Plan(source, config.seed, ())) for source in config.resolved()
        ]

    @property
    def active(self) -> list[_Track]:
        return [track for track in self.tracks if track.left_out is None]

    def run(self, label: str, tasks: Sequence[ShardTask], slow: bool = False) -> list[dict[str, Any]]:
        """Manifests of tasks; those that are not `slow` are not worth processes where there are few documents."""
        large = slow or sum(manifest["rows"] for manifest in self.documents) >= POOL_ROWS
        return run_shards(tasks, self.workers if large else 1, self.progress, label, self.engine)

    def run_each(
        self, label: str, tasks: Mapping[str, Sequence[ShardTask]], slow: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """Source -> manifests of its tasks, all in one run."""
        manifests = iter(self.run(label, [task for own in tasks.values() for task in own], slow))
        return {name: [next(manifests) for _ in own] for name, own in tasks.items()}

    def clear(self) -> None:
        """Removes what is of sources or shards that are no more."""
        kept = {track.folder for track in self.tracks}
        for path in self.folder.glob("*"):
            if path.is_dir() and path not in kept:
                remove_folder(path)
        for path in [*self.folder.glob("*/facts"), *self.folder.glob("*/round-*/*")]:
            if path.is_dir() and path.name != rounds.MODEL:
                remove_orphans(path, self.shards)
        remove_orphans(annotation_directory(self.corpus, self.name), self.shards)

    def write_facts(self) -> None:
        """Asks the SQL of every source."""
        beside, digests = self._beside()
        tasks = {}
        for track in self.tracks:
            selected = self.config.selection is not None
            question = facts.Question.of(track.source, self.config.score, self.config.validation, selected)
            named = [name for name in beside if name in question.words() or name == facts.SELECTION]
            facts.check(question, facts.schemas_of(beside))
            asked = [facts.FORMAT, question.columns, question.validation.model_dump(mode="json")]
            own = []
            for index, shard in enumerate(self.shards):
                read = {name: beside[name][index] for name in named}
                made_of = [self.documents[index]["sha256"], {name: digests[name][index] for name in named}]
                output = track.folder / "facts" / shard.name
                own.append(
                    ShardTask(output, fingerprint(asked, made_of), facts.write_facts, (shard, read), (question,))
                )
            tasks[track.source.name] = own
        manifests = self.run_each("facts", tasks)
        for track in self.tracks:
            track.facts = manifests[track.source.name]
            track.plan = replace(track.plan, facts=tuple(task.output for task in tasks[track.source.name]))

    def _beside(self) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
        """Name -> shards of what SQL may name, and their digests: annotations that it does name, and the selection."""
        sql = {word for track in self.tracks for text in track.source.conditions().values() for word in _words(text)}
        sql |= _words(self.config.score)
        whole = corpus_fingerprint(self.corpus)
        names = [name for name in annotation_names(self.corpus) if name in sql]
        if self.name in names:
            raise DataError(f"subset {self.name!r}: its SQL names the annotation that it makes; call it otherwise")
        made = {name: current_annotation(self.corpus, name, whole) for name in names}
        beside = {name: [path for path, _ in pairs] for name, pairs in made.items()}
        digests = {name: [manifest["sha256"] for _, manifest in pairs] for name, pairs in made.items()}
        if self.config.selection is not None:
            read_selection(self.corpus, self.config.selection)
            folder = self.corpus / "selections" / self.config.selection
            beside[facts.SELECTION] = [folder / shard.name for shard in self.shards]
            digests[facts.SELECTION] = [finished_manifest(path)["sha256"] for path in beside[facts.SELECTION]]
        return beside, digests

    def count(self) -> None:
        """What there is to draw for the next round, and what the last has found."""
        examples = self.config.examples
        tasks = {}
        for track in self.active:
            common = (track.plan, examples)
            tasks[track.source.name] = [
                ShardTask(
                    track.round_folder / "count" / f"{shard.stem}.json",
                    fingerprint(draws.COUNT_FORMAT, track.state(index), track.known(index, "good", "score"), examples),
                    draws.count_shard,
                    (index, shard),
                    common,
                )
                for index, shard in enumerate(self.shards)
            ]
        self.run_each("candidates", tasks)
        for track in self.active:
            track.counts.append(draws.sum_counts([task.output for task in tasks[track.source.name]], examples))

    def leave_out(self) -> None:
        """Says which sources have too few seeds. Raises `DataError` where that is all of them."""
        for track in self.tracks:
            counts = track.counts[0]["counts"]
            if counts[SEEDS] < self.config.minimum_seeds:
                track.left_out = f"{counts[SEEDS]:,} seeds, {self.config.minimum_seeds:,} are needed (minimum_seeds)"
            elif not counts[RANDOM]:
                track.left_out = "every document is a seed: nothing is left for negatives"
        if not self.active:
            said = "; ".join(f"{track.source.name}: {track.left_out}" for track in self.tracks)
            raise DataError(f"subset {self.name!r}: no source can be trained: {said}")

    def draw_and_train(self) -> None:
        characters = self.config.text.characters
        tasks, asked = {}, {}
        for track in self.active:
            counts = track.counts[-1]["counts"]
            asked[track.source.name] = wanted = draws.wanted(track.plan, self.config, counts)
            bounds = draws.bounds(wanted, counts)
            common = (track.plan, bounds, characters)
            tasks[track.source.name] = [
                ShardTask(
                    track.round_folder / "draw" / shard.name,
                    fingerprint(
                        draws.DRAW_FORMAT, self.documents[index]["sha256"], track.state(index), bounds, characters
                    ),
                    draws.draw_shard,
                    (index, shard),
                    common,
                )
                for index, shard in enumerate(self.shards)
            ]
        label = f"round {self.active[0].plan.number}"
        drawn = self.run_each(f"{label}: draw", tasks, slow=True)
        settings = [self.config.classifier, self.config.text]
        training = []
        for track in self.active:
            name, output = track.source.name, track.round_folder / "train.json"
            made_of = [[manifest["sha256"] for manifest in drawn[name]], asked[name], TEXT_VERSION]
            inputs = fingerprint(rounds.TRAIN_FORMAT, made_of, [one.model_dump(mode="json") for one in settings])
            paths = [task.output for task in tasks[name]]
            training.append(ShardTask(output, inputs, rounds.train, (output, paths, asked[name], *settings)))
        self.run(f"{label}: train", training, slow=True)
        for track, task in zip(self.active, training, strict=True):
            track.trained.append(json.loads(task.output.read_bytes()))

    def score_and_measure(self) -> None:
        label = f"round {self.active[0].plan.number}"
        scoring = {}
        for track in self.active:
            model = track.trained[-1]["digest"]
            common = (track.round_folder / rounds.MODEL, model)
            scoring[track.source.name] = [
                ShardTask(
                    track.round_folder / "scores" / shard.name,
                    fingerprint(
                        rounds.SCORE_FORMAT, self.documents[index]["sha256"], track.known(index, "inside"), model
                    ),
                    rounds.score_shard,
                    (shard, track.plan.facts[index]),
                    common,
                )
                for index, shard in enumerate(self.shards)
            ]
        scored = self.run_each(f"{label}: score", scoring, slow=True)
        counting = {
            track.source.name: [
                ShardTask(
                    track.round_folder / "tally" / f"{task.output.stem}.npy",
                    fingerprint(rounds.TALLY_FORMAT, made["sha256"], track.known(index, *rounds.TALLIED)),
                    rounds.tally_shard,
                    (track.plan.facts[index], task.output),
                )
                for index, (task, made) in enumerate(
                    zip(scoring[track.source.name], scored[track.source.name], strict=True)
                )
            ]
            for track in self.active
        }
        self.run_each(f"{label}: measure", counting)
        for track in self.active:
            name = track.source.name
            tally = Tally.read(task.output for task in counting[name])
            threshold = choose_threshold(tally, track.source.threshold, track.source)
            track.found.append(measure(tally, threshold))
            track.scores.append(scored[name])
            paths = tuple(task.output for task in scoring[name])
            done = Round(track.trained[-1]["cuts"], threshold, paths)
            track.plan = replace(track.plan, rounds=(*track.plan.rounds, done))

    def spread(self, track: _Track) -> annotation.Spread:
        ends = [manifest["scores"] for manifest in track.facts if manifest["scores"]]
        low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
        return annotation.Spread(low, max(high, low + 1e-6), track.found[-1]["recalled"]["share"])

    def annotate(self) -> list[dict[str, Any]]:
        plans = tuple(track.plan for track in self.active)
        spreads = tuple(self.spread(track) for track in self.active)
        about = {"name": self.name, "version": 1, "settings": self.config.model_dump(mode="json")}
        states = [[track.state(index) for track in self.active] for index in range(len(self.shards))]
        known = [[track.facts[index]["columns"] for track in self.active] for index in range(len(self.shards))]
        said = [annotation.FORMAT, about, [vars(spread) for spread in spreads]]
        whole = fingerprint(said, states, known)
        common = (plans, spreads)
        tasks = []
        for index, shard in enumerate(self.shards):
            counters = {"documents_sha256": self.documents[index]["sha256"], "run": whole, "annotator": about}
            output = annotation_directory(self.corpus, self.name) / shard.name
            inputs = fingerprint(whole, index, counters["documents_sha256"])
            tasks.append(ShardTask(output, inputs, annotation.annotate_shard, (index, shard, counters), common))
        return self.run("annotate", tasks)

    def report(self, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "corpus": self.corpus.name,
            "config": self.config.model_dump(mode="json"),
            "documents": sum(manifest["rows"] for manifest in manifests),
            "size_bytes": sum(manifest["text_bytes"] for manifest in self.documents),
            "recalled": {
                "documents": sum(manifest["counts"]["recalled"] for manifest in manifests),
                "size_bytes": sum(manifest["recalled_bytes"] for manifest in manifests),
                "seeds": sum(manifest["counts"]["seed"] for manifest in manifests),
            },
            "left_out": {track.source.name: track.left_out for track in self.tracks if track.left_out},
            "sources": [self._source(track, manifests) for track in self.active],
        }

    def _source(self, track: _Track, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        made = []
        for number, (trained, measured) in enumerate(zip(track.trained, track.found, strict=True), 1):
            after = track.counts[number]
            made.append(
                {
                    "round": number,
                    **{key: trained[key] for key in ("drawn", "positives", "negatives")},
                    "trained_bytes": trained["size_bytes"],
                    **measured,
                    "recalled_again": after["recalled_again"] if number > 1 else None,
                    "found": after["counts"][found(number)],
                    "examples": after["examples"],
                }
            )
        name = track.source.name
        return {
            "name": name,
            "source": track.source.model_dump(mode="json"),
            "documents": sum(manifest["documents"] for manifest in track.facts),
            "size_bytes": sum(manifest["size_bytes_inside"] for manifest in track.facts),
            "seeds": track.counts[0]["counts"][SEEDS],
            "rounds": made,
            "scores": annotation.sum_spreads(manifests, name, self.spread(track)),
        }


def _words(sql: str) -> set[str]:
    return set(re.findall(r"\w+", sql))
