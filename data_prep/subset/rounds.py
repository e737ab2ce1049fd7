"""The work of a round on texts: training, scoring every document of the source, counting the scores."""

import functools
import json
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.classify.model import ModelSettings, TextClassifier, describe, digest
from data_prep.classify.preparation import TextSettings
from data_prep.documents import read_rows
from data_prep.errors import DataError
from data_prep.storage import read_parquet
from data_prep.subset.draws import cut, drawn
from data_prep.subset.state import MOST_ODDS, bin_of, is_positive, read_facts, read_log_odds

TRAIN_FORMAT = "data_prep.subset.train/1"
SCORE_FORMAT = "data_prep.subset.scores/1"
TALLY_FORMAT = "data_prep.subset.tally/1"
GOOD, OTHER = "good", "other"
MODEL = "model"  # the folder of a round's classifier
TALLIED = ("validation", "good", "score", "size_bytes")  # columns of facts
_LEAST = 1e-9  # of a probability, in a logarithm
_AT_ONCE = 256
TALLY = np.dtype([("side", "u1"), ("good", "u1"), ("bin", "<u2"), ("documents", "<i8"), ("size_bytes", "<i8"),
                  ("scored", "<i8"), ("score", "<f8")])  # fmt: skip


def train(
    stream: BinaryIO,
    output: Path,
    draws: Sequence[Path],
    wanted: Mapping[str, int],
    settings: ModelSettings,
    text: TextSettings,
    least_examples: int,
) -> dict[str, Any]:
    """Shard function: trains the classifier of a round, kept in the folder `model` beside `output`.

    Writes JSON: `cuts` (kind -> highest key that was drawn), `drawn` (kind -> documents), `positives`, `negatives`,
    `size_bytes` of their texts, `epochs`, and the classifier's `digest`.
    """
    cuts = cut(draws, wanted)
    count = dict.fromkeys(cuts, 0)
    with tempfile.TemporaryDirectory(prefix="subset-") as scratch:
        labels, place = [], Path(scratch) / "texts"
        with place.open("wb") as out:
            for draw in draws:
                for key, kind, content in drawn(draw, cuts):
                    count[kind] += 1
                    start = out.tell()
                    out.write(content.encode("utf-8", "surrogatepass"))
                    labels.append((key, start, out.tell(), is_positive(kind)))
        labels.sort()  # by hash, so that kinds and repositories are mixed, whatever shards there are
        names = [GOOD if positive else OTHER for *_, positive in labels]
        epochs = max(settings.epochs, -(-least_examples // max(1, len(labels))))
        settings = settings.model_copy(update={"epochs": epochs})
        model = TextClassifier.train(_texts(place, labels), names, settings, text, Path(scratch))
    folder = output.with_name(MODEL)
    about = model.save(folder)
    said = {
        "cuts": cuts,
        "drawn": count,
        "positives": names.count(GOOD),
        "negatives": names.count(OTHER),
        "size_bytes": sum(stop - start for _, start, stop, _ in labels),
        "epochs": epochs,
        "digest": digest(about),
    }
    stream.write((json.dumps(said) + "\n").encode())
    return {"rows": len(labels), "files": _files(folder)}


def _texts(path: Path, spans: Sequence[tuple[int, int, int, bool]]) -> Iterator[str]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield from ("" for _ in spans)
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for _, start, stop, _ in spans:
                yield data[start:stop].decode("utf-8", "surrogatepass")


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a classifier, for the manifest of who made it."""
    return {
        f"{folder.name}/{path.name}": {"size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


@functools.lru_cache(maxsize=1)
def _classifier(folder: Path, model: str) -> TextClassifier:
    """One for all shards of a worker, until there is another (`model` is its digest)."""
    if digest(describe(folder)) != model:
        raise DataError(f"{folder} is another classifier than was trained; run `data subset` again")
    return TextClassifier.load(folder)


def forget_classifiers() -> None:
    """Gives back their memory."""
    _classifier.cache_clear()


def score_shard(stream: BinaryIO, shard: Path, facts: Path, folder: Path, model: str) -> dict[str, Any]:
    """Shard function: `log_odds` (fp32) of every document of the source, null for the others."""
    classifier = _classifier(folder, model)
    inside = read_parquet(facts, ["inside"], use_threads=False)["inside"].to_numpy()
    odds = np.full(len(inside), np.nan, np.float32)
    for rows, documents in read_rows(shard, np.flatnonzero(inside), ["text"]):
        texts = documents["text"].to_pylist()
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            odds[rows[part]] = log_odds(classifier, texts[part])
    pq.write_table(pa.table({"log_odds": pa.array(odds, mask=np.isnan(odds))}), stream, compression="zstd")
    return {"rows": len(odds), "documents": int(inside.sum())}


def log_odds(classifier: TextClassifier, texts: Sequence[str]) -> np.ndarray:
    """fp32 [texts] of good against other; the lowest for a text in which the classifier knows no word."""
    probabilities = classifier.probabilities(texts).astype(np.float64)
    good, other = (probabilities[:, classifier.labels.index(label)] for label in (GOOD, OTHER))
    odds = np.log(np.maximum(good, _LEAST)) - np.log(np.maximum(other, _LEAST))
    odds[(good == 0) & (other == 0)] = -MOST_ODDS
    return np.clip(odds, -MOST_ODDS, MOST_ODDS).astype(np.float32)


def tally_shard(stream: BinaryIO, facts: Path, scores: Path) -> dict[str, Any]:
    """Shard function: documents of the source by side of the split, goodness and bin (`TALLY` records)."""
    columns, bins = read_facts(facts), bin_of(read_log_odds(scores))
    rows = np.flatnonzero(bins >= 0)
    keys = np.stack([columns["validation"][rows], columns["good"][rows], bins[rows]], axis=1).astype(np.int64)
    found, place = np.unique(keys, axis=0, return_inverse=True)
    place = place.reshape(-1)
    score, scored = np.nan_to_num(columns["score"][rows]), ~np.isnan(columns["score"][rows])
    records = np.zeros(len(found), TALLY)
    for name, values in zip(("side", "good", "bin"), found.T, strict=True):
        records[name] = values
    weights = {"documents": None, "size_bytes": columns["size_bytes"][rows], "scored": scored, "score": score}
    for name, weight in weights.items():
        records[name] = np.bincount(place, weight, len(found))
    np.lib.format.write_array(stream, records, allow_pickle=False)
    return {"rows": len(records)}
