"""A classifier from labelled documents: trained on some sites, its threshold picked on others, measured on the rest."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from data_prep.classify.examples import labelled_texts, shuffled_texts
from data_prep.classify.labels import SIDES, find_labelled, label_source
from data_prep.classify.measure import Judged, by_site, measure_labels, measure_recall
from data_prep.classify.model import FORMAT, TextClassifier, describe
from data_prep.classify.page import write_page
from data_prep.classify.preparation import VERSION
from data_prep.classify.settings import ClassifyConfig
from data_prep.classify.thresholds import threshold_for_recall
from data_prep.database import WORK_FOLDER, open_database
from data_prep.errors import DataError
from data_prep.shards import fingerprint, lock_directory

REPORT = "report"
WORK = "work"
TEST = SIDES.index("test")


def train_classifier(corpus: Path, out: Path, config: ClassifyConfig, workers: int = 1) -> dict[str, Any]:
    """Trains the classifier `out` and measures it on the test side; returns what `model.json` says.

    `OUT.report` gets the figures and a page, `OUT.work` holds what is needed meanwhile. Does nothing where the
    classifier is there and was made of the same: documents, annotations that labels name, table, config. Raises
    `DataError`.
    """
    _refuse_other(out)
    source = label_source(corpus, config)
    asked = config.model_dump(mode="json", exclude={"table"})
    inputs = fingerprint(FORMAT, VERSION, source.inputs, asked)
    if (before := _stored(out)) and before.get("inputs") == inputs == _reported(out):
        return {**before, "made_now": False}
    with _workplace(out, workers) as (folder, database):
        counts = find_labelled(database, source, config)
        pairs = shuffled_texts(database, source.shards, 0, config.text.characters)
        classifier = TextClassifier.train_pairs(pairs, config.model, config.text, folder)
        validation, test = (judge(database, source.shards, classifier, [side]) for side in (1, 2))
    about = {
        "name": out.name,
        "corpus": str(corpus),
        "inputs": inputs,
        "config": config.model_dump(mode="json"),
        "documents": counts,
        "per": config.per,
    }
    measured: dict[str, Any] = {"test": _figures(test, config)}
    if config.positive is not None:
        number = classifier.labels.index(config.positive)
        threshold = threshold_for_recall(validation.probabilities[:, number], validation.true == number, config.recall)
        about |= {"positive": config.positive, "recall": config.recall, "threshold": threshold}
        measured["recall"] = {
            side: measure_recall(judged, config.positive, threshold, config.split.seed)
            for side, judged in (("validation", validation), ("test", test))
        }
    saved = classifier.save(out, {**about, "measured": measured})
    write_page(saved, test, source.shards, _report(out))
    return {**saved, "made_now": True}


def check_classifier(
    corpus: Path, folder: Path, into: Path, config: ClassifyConfig | None = None, every: bool = False, workers: int = 1
) -> dict[str, Any]:
    """Measures a classifier on labelled documents of a corpus; writes figures and a page into `into`, returns them.

    `config` says where labels come from and how sites are split; None: as in training. Only the test side counts, or
    with `every` all documents (such as of a corpus that it was not trained on). Raises `DataError`.
    """
    about = describe(folder)
    config = config or ClassifyConfig.model_validate(about["config"])
    # What there is too little of to train on can still be measured, and all of it goes to the sides that count.
    config = config.model_copy(update={"minimum_train": 2 if not every else 0, "minimum_evaluated": 0 if every else 1})
    classifier = TextClassifier.load(folder)
    source = label_source(corpus, config)
    with _workplace(into, workers) as (_, database):
        counts = find_labelled(database, source, config)
        if unknown := set(counts["labelled"]) - set(classifier.labels):
            raise DataError(
                f"label {min(unknown)!r} is none of the classifier {folder} (labels: {', '.join(classifier.labels)})"
            )
        test = judge(database, source.shards, classifier, range(3) if every else [TEST])
    measured: dict[str, Any] = {"test": _figures(test, config)}
    if about.get("positive") is not None:
        found = measure_recall(test, about["positive"], about["threshold"], config.split.seed)
        measured["recall"] = {"test": found}
    checked = {**about, "corpus": str(corpus), "documents": counts, "measured": measured}
    write_page(checked, test, source.shards, into)
    return checked


def judge(
    database: duckdb.DuckDBPyConnection, shards: Sequence[Path], classifier: TextClassifier, sides: Sequence[int]
) -> Judged:
    """What a classifier says of the labelled documents of these sides; texts stream, numbers stay."""
    numbers = {label: place for place, label in enumerate(classifier.labels)}
    true, probabilities, places, names = [], [], [], {}
    sites: list[int] = []
    for table in labelled_texts(database, shards, list(sides), classifier.text.characters):
        probabilities.append(classifier.probabilities(table["text"].to_pylist()))
        true += [numbers[label] for label in table["label"].to_pylist()]
        sites += [names.setdefault(name, len(names)) for name in table["repository"].to_pylist()]
        places.append(np.stack([table["_shard"].to_numpy(), table["_row"].to_numpy()], axis=1))
    nothing = np.empty((0, len(numbers)), np.float32), np.empty((0, 2), np.int64)
    return Judged(
        classifier.labels,
        np.array(true, np.int64),
        np.concatenate([nothing[0], *probabilities]),
        np.array(sites, np.int64),
        np.concatenate([nothing[1], *places]),
    )


def _figures(judged: Judged, config: ClassifyConfig) -> dict[str, Any]:
    found = measure_labels(judged)
    return {**found, "by_site": measure_labels(by_site(judged))} if config.per == "repository" else found


def _refuse_other(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _stored(out) is not None)):
        raise DataError(f"{out} is there and is no classifier: name a folder that is new, empty or one")


def _stored(out: Path) -> dict[str, Any] | None:
    try:
        return describe(out)
    except DataError:
        return None


def _report(out: Path) -> Path:
    return out.with_name(f"{out.name}.{REPORT}")


def _reported(out: Path) -> str | None:
    """Inputs of the classifier that the report is of."""
    try:
        return json.loads((_report(out) / "report.json").read_bytes()).get("inputs")
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def _workplace(out: Path, workers: int) -> Iterator[tuple[Path, duckdb.DuckDBPyConnection]]:
    folder = out.with_name(f"{out.name}.{WORK}")
    try:
        with lock_directory(folder), open_database(folder, workers) as database:
            yield folder / WORK_FOLDER, database
    finally:
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()
