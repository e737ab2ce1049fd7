"""Find a subset: for each source rounds of drawing, training, scoring and measuring; then the annotation and a report.

All sources go through a step together, which gives an engine more to do at a time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import (
    annotation_directory,
    annotation_names,
    annotation_shard,
    current_annotation,
    remove_orphans,
)
from data_prep.annotators.base import check_name
from data_prep.database import words_in
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.partitions import POOL_ROWS
from data_prep.select import read_selection
from data_prep.selection.places import selection_shard
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, run_shards
from data_prep.storage import as_path, is_remote, remove_file, remove_folder
from data_prep.subset import facts, rounds
from data_prep.subset.annotation import FORMAT as ANNOTATION_FORMAT
from data_prep.subset.annotation import Spread, annotate_shard, sum_spreads
from data_prep.subset.page import write_page
from data_prep.subset.settings import SubsetConfig
from data_prep.subset.track import Manifests, Shards, Track

__all__ = ["find_subset", "subset_directory"]

FORMAT = "data_prep.subset/1"
MADE_BY = "subset"


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
    """Writes `annotations/<name>`, and into `subsets/<name>` the rounds, `report.json` and `report.html`.

    Returns the report, and `parts` and `parts_made`: of how many parts the rounds consist, and how many were made now.
    Raises `DataError` for SQL over what the corpus does not have, and where no source has enough seeds.
    """
    corpus = as_path(corpus)
    _check_name(corpus, name)
    try:
        with lock_directory(corpus):
            run = _Run(corpus, name, config, workers, progress, engine)
            run.write_facts()
            run.count()
            run.leave_out()
            for _ in range(config.rounds):
                run.draw_and_train()
                run.score_and_measure()
                run.count()
            report = run.annotate()
            write_page(report, run.shards.paths, run.folder)
            return {**report, "parts": run.parts, "parts_made": run.parts_made}
    finally:
        rounds.forget_classifiers()  # where texts were scored in this process


def _check_name(corpus: Path, name: str) -> None:
    if is_remote(corpus):
        raise DataError(f"{corpus}: subsets need a disk; copy the corpus there (aws s3 sync)")
    others = annotation_directory(corpus, name).is_dir() and not subset_directory(corpus, name).is_dir()
    if others or name == facts.SELECTION:
        raise DataError(f"subset {name!r}: there is an annotation or a table of this name; call it otherwise")
    check_name(name, "subset")


class _Run:
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
        self.shards = _read_shards(corpus, name, config)
        self.tracks = [Track.of(source, config, self.shards, self.folder / source.name) for source in config.resolved()]
        self.left_out: dict[str, str] = {}
        self.parts = self.parts_made = 0
        self._is_new = not self.folder.is_dir()
        self._remove_others()

    def _remove_others(self) -> None:
        """Removes what is of sources or shards that are no more."""
        kept = {track.folder for track in self.tracks}
        for path in self.folder.glob("*"):
            if path.is_dir() and path not in kept:
                remove_folder(path)
        remove_orphans(annotation_directory(self.corpus, self.name), self.shards.paths)
        known = {f"{shard.stem}{suffix}" for shard in self.shards.paths for suffix in (".parquet", ".json", ".npy")}
        for path in [*self.folder.glob("*/facts/*"), *self.folder.glob("*/round-*/*/*")]:
            if path.parent.name != rounds.MODEL and not {path.name, path.stem} & known:
                remove_file(path)

    def _run(self, label: str, tasks: Sequence[ShardTask], slow: bool) -> list[dict[str, Any]]:
        """Manifests of tasks; those that are not `slow` are not worth processes where there are few documents."""
        self.parts += len(tasks)
        self.parts_made += sum(finished_manifest(task.output, task.inputs) is None for task in tasks)
        large = slow or sum(manifest["rows"] for manifest in self.shards.manifests) >= POOL_ROWS
        return run_shards(tasks, self.workers if large else 1, self.progress, label, self.engine)

    def _each(
        self, label: str, make: Callable[[Track], list[ShardTask]], slow: bool = False
    ) -> list[tuple[Track, list[ShardTask], Manifests]]:
        """The tasks that `make` gives for each source, and their manifests, all in one run."""
        tasks = [(track, make(track)) for track in self.tracks]
        manifests = iter(self._run(label, [task for _, own in tasks for task in own], slow))
        return [(track, own, [next(manifests) for _ in own]) for track, own in tasks]

    def _label(self, step: str) -> str:
        return f"round {self.tracks[0].plan.number}: {step}"

    def write_facts(self) -> None:
        for track, _, manifests in self._each("facts", Track.facts_tasks):
            track.facts = manifests

    def count(self) -> None:
        for track, tasks, _ in self._each("candidates", Track.count_tasks):
            track.counted(tasks)

    def leave_out(self) -> None:
        """Goes on without sources that have too few seeds. Raises `DataError` where that is all of them; what was
        written to find it out is removed then, unless an earlier run left more beside it."""
        self.left_out = {track.source.name: why for track in self.tracks if (why := track.wanting())}
        self.tracks = [track for track in self.tracks if track.source.name not in self.left_out]
        if not self.tracks:
            if self._is_new:
                remove_folder(self.folder)
            said = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise DataError(f"subset {self.name!r}: no source can be trained: {said}")

    def draw_and_train(self) -> None:
        drawn = self._each(self._label("draw"), Track.draw_tasks, slow=True)
        training = [track.train_task(tasks, manifests) for track, tasks, manifests in drawn]
        self._run(self._label("train"), training, slow=True)
        for track, task in zip(self.tracks, training, strict=True):
            track.has_trained(task)

    def score_and_measure(self) -> None:
        scored = {
            track.source.name: (tasks, manifests)
            for track, tasks, manifests in self._each(self._label("score"), Track.score_tasks, slow=True)
        }
        label = self._label("measure")
        for track, tallies, _ in self._each(label, lambda track: track.tally_tasks(*scored[track.source.name])):
            track.measured(scored[track.source.name][0], tallies)

    def annotate(self) -> dict[str, Any]:
        """Writes the annotation; returns the report."""
        spreads = tuple(_spread(track) for track in self.tracks)
        settings = {"made_by": MADE_BY, **self.config.model_dump(mode="json")}
        about = {"name": self.name, "version": 1, "settings": settings}
        answers = [[track.answers(index) for track in self.tracks] for index in range(len(self.shards.paths))]
        whole = fingerprint(ANNOTATION_FORMAT, about, [vars(spread) for spread in spreads], answers)
        common = (tuple(track.plan for track in self.tracks), spreads)
        tasks = []
        for index, shard in enumerate(self.shards.paths):
            counters = {"documents_sha256": self.shards.digest(index), "run": whole, "annotator": about}
            output = annotation_shard(self.corpus, self.name, shard)
            inputs = fingerprint(whole, index, counters["documents_sha256"])
            tasks.append(ShardTask(output, inputs, annotate_shard, (index, shard, counters), common))
        return self._report(self._run("annotate", tasks, slow=False), spreads)

    def _report(self, manifests: Manifests, spreads: Sequence[Spread]) -> dict[str, Any]:
        sources = [
            {**track.report(), "scores": sum_spreads(manifests, track.source.name, spread)}
            for track, spread in zip(self.tracks, spreads, strict=True)
        ]
        return {
            "format": FORMAT,
            "name": self.name,
            "corpus": self.corpus.name,
            "config": self.config.model_dump(mode="json"),
            "documents": sum(manifest["rows"] for manifest in manifests),
            "size_bytes": sum(manifest["text_bytes"] for manifest in self.shards.manifests),
            "recalled": {
                "documents": sum(manifest["counts"]["recalled"] for manifest in manifests),
                "size_bytes": sum(manifest["recalled_bytes"] for manifest in manifests),
                "seeds": sum(manifest["counts"]["seed"] for manifest in manifests),
            },
            "left_out": self.left_out,
            "sources": sources,
        }


def _read_shards(corpus: Path, name: str, config: SubsetConfig) -> Shards:
    """The documents, and the annotations and the selection that SQL names. Raises `DataError` where one is outdated."""
    shards = list_shards(corpus)
    if not shards:
        raise DataError(f"{corpus}: the corpus has no documents")
    sql = [config.score, *(text for source in config.resolved() for text in source.conditions().values())]
    words = words_in(sql)
    names = [name for name in annotation_names(corpus) if name in words]
    if name in words:
        raise DataError(f"subset {name!r}: its SQL names the annotation that it makes; call it otherwise")
    whole = corpus_fingerprint(corpus)
    made = {name: current_annotation(corpus, name, whole) for name in names}
    beside = {name: [path for path, _ in pairs] for name, pairs in made.items()}
    digests = {name: [manifest["sha256"] for _, manifest in pairs] for name, pairs in made.items()}
    if config.selection is not None:
        read_selection(corpus, config.selection)
        beside[facts.SELECTION] = [selection_shard(corpus, config.selection, shard) for shard in shards]
        digests[facts.SELECTION] = [finished_manifest(path)["sha256"] for path in beside[facts.SELECTION]]
    return Shards(shards, [finished_manifest(shard) for shard in shards], beside, digests)


def _spread(track: Track) -> Spread:
    ends = [manifest["scores"] for manifest in track.facts if manifest["scores"]]
    low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
    return Spread(low, max(high, low + 1e-6), track.found[-1]["recalled"]["share"])
