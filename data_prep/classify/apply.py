"""What a classifier says of every document (or site) of a corpus, as an annotation."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, computed_field
from rich.progress import Progress

from data_prep.annotate import IsolationLimits, annotate
from data_prep.annotations import annotation_directory, annotation_shard, refuse_others, remove_orphans, write_table
from data_prep.annotators.base import Annotator, AnnotatorSpec, NamedSpec, check_name
from data_prep.classify.model import TextClassifier, describe, digest
from data_prep.database import add_shards_view, literal, open_database, shard_tables
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, write_shard
from data_prep.storage import as_path, read_parquet

FORMAT = "data_prep.classify.sites/1"
MADE_BY = "classify"
EACH = "_each"
"""Ending of the annotation that has what was said of each document, where sites get one label."""
_MILLIONTHS = 1_000_000


class Classified(Annotator):
    """The most probable label and its probability. The classifier's digest, not its place, decides what is out of
    date."""

    classifier: str = Field(exclude=True)
    """Folder of a classifier."""

    version = 1
    columns: ClassVar = {"label": pa.string(), "probability": pa.float32()}
    reads: ClassVar = ("text",)

    @computed_field
    @property
    def made_by(self) -> str:
        return MADE_BY

    @computed_field
    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that its answers depend on."""
        return digest(self._about)

    def prepare(self) -> None:
        _ = self._model

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        found = self._probabilities(documents)
        best = found.argmax(axis=1)
        return {"label": self._labels(best), "probability": found[np.arange(len(found)), best].tolist()}

    def _probabilities(self, documents: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return self._model.probabilities([document["text"] for document in documents])

    def _labels(self, numbers: np.ndarray) -> list[str]:
        return [self._model.labels[number] for number in numbers]

    @functools.cached_property
    def _about(self) -> dict[str, Any]:
        return describe(Path(self.classifier))

    @functools.cached_property
    def _model(self) -> TextClassifier:
        return TextClassifier.load(Path(self.classifier))


class Recalled(Classified):
    """The most probable of two labels, the probability of the one that is to be found, and whether it is recalled."""

    columns: ClassVar = {**Classified.columns, "recalled": pa.bool_()}

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        found = self._probabilities(documents)
        scores = found[:, self._model.labels.index(self._about["positive"])]
        recalled = (scores >= self._about["threshold"]).tolist()
        return {"label": self._labels(found.argmax(axis=1)), "probability": scores.tolist(), "recalled": recalled}


class Each(Classified):
    """The probabilities of all labels, in the classifier's order."""

    columns: ClassVar = {"probabilities": pa.list_(pa.float32())}

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        return {"probabilities": list(self._probabilities(documents))}


def apply_classifier(
    corpus: Path,
    folder: Path,
    name: str,
    workers: int = 1,
    limits: IsolationLimits | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Writes the annotation `name`: `label`, `probability` and, of a recall classifier, `recalled`.

    A classifier of sites (`per: repository`) writes `name` + `_each` first, what is said of each document, and then
    `label`, `probability` and `documents` of its site for each document. Returns what `annotate` does, and `labels`:
    label -> documents. Raises `DataError` for what is no classifier, or a name that something else has.
    """
    corpus, about = as_path(corpus), describe(folder)
    per_site = about.get("per") == "repository"
    kind = Each if per_site else Recalled if about.get("positive") is not None else Classified
    first = f"{name}{EACH}" if per_site else name
    for taken in {name, first}:
        refuse_others(corpus, taken, MADE_BY)
        check_name(taken, "--annotation")
    given = AnnotatorSpec.of(f"{__name__}:{kind.__name__}", classifier=str(folder.resolve()))
    spec = NamedSpec(given.reference, given.settings, None, first)
    (result,) = annotate(corpus, [spec], workers, limits, progress, engine, retry_failed)
    if per_site:
        result |= _label_sites(corpus, name, first, about, workers, progress)
    return {**result, "labels": _label_counts(corpus, name)}


def _label_sites(
    corpus: Path, name: str, each: str, about: Mapping[str, Any], workers: int, progress: Progress | None
) -> dict[str, Any]:
    """Writes the annotation of sites of what is said of each document; sums are of whole numbers, so their order does
    not matter."""
    with lock_directory(corpus):
        shards, directory = list_shards(corpus), annotation_directory(corpus, name)
        parts = [annotation_shard(corpus, each, shard) for shard in shards]
        whole = corpus_fingerprint(corpus)
        inputs = fingerprint(FORMAT, whole, [finished_manifest(part)["sha256"] for part in parts], about["labels"])
        remove_orphans(directory, shards)
        missing = [shard for shard in shards if finished_manifest(directory / shard.name, inputs) is None]
        if not missing:
            return {"shards_made": 0}
        settings = {"made_by": MADE_BY, "digest": digest(about), "per": "repository"}
        bar = progress.add_task(f"{name}: sites", total=len(shards)) if progress else None
        with open_database(corpus, workers) as database:
            add_shards_view(database, "documents", shards, "id, repository")
            add_shards_view(database, "each_document", parts, "probabilities")
            for shard, table in shard_tables(database, _sites_query(about["labels"]), shards):
                counters = {
                    "documents_sha256": finished_manifest(shard)["sha256"],
                    "corpus_fingerprint": whole,
                    "annotator": {"name": name, "version": FORMAT, "settings": settings},
                }
                write_shard(ShardTask(directory / shard.name, inputs, write_table, (table, counters)))
                if progress:
                    progress.advance(bar)
    return {"shards_made": len(shards)}


def _sites_query(labels: Sequence[str]) -> str:
    names = ", ".join(map(literal, labels))
    sums = ", ".join(
        f"sum(round({_MILLIONTHS} * probabilities[{place}])::BIGINT)" for place in range(1, len(labels) + 1)
    )
    return f"""WITH sums AS (
        SELECT repository, count(probabilities) AS documents, [{sums}] AS sums
        FROM documents JOIN each_document USING (_shard, _row) GROUP BY repository
    ), sites AS (
        SELECT repository, documents, list_position(sums, list_max(sums)) AS best,
        list_max(sums)::DOUBLE / documents / {_MILLIONTHS} AS probability FROM sums
    )
    SELECT id, CASE WHEN documents > 0 THEN [{names}][best] END AS label,
        CASE WHEN documents > 0 THEN probability END::FLOAT AS probability, documents
    FROM documents JOIN sites USING (repository) ORDER BY _shard, _row"""


def _label_counts(corpus: Path, name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shard in list_shards(corpus):
        labels = read_parquet(annotation_shard(corpus, name, shard), ["label"])["label"]
        for entry in pc.value_counts(labels).to_pylist():
            if entry["values"] is not None:
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
