"""A text classifier: fastText with its labels, how texts are prepared for it, and its place on disk."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from data_prep.classify import native
from data_prep.classify.preparation import VERSION, TextSettings, prepared
from data_prep.errors import DataError
from data_prep.settings import Settings
from data_prep.shards import fingerprint, sha256_of, write_atomic, write_json
from data_prep.storage import scratch_folder

FORMAT = "data_prep.classifier/1"
DESCRIPTION = "model.json"
_AT_ONCE = 256  # texts


class ModelSettings(Settings):
    """How fastText is trained. The values are ours; the report names none."""

    dim: int = Field(16, ge=1, le=4096)
    """Of the vectors of words."""
    epochs: int = Field(5, ge=1)
    learning_rate: float = Field(0.5, gt=0, le=100)
    """At the beginning; it falls to 0 in a straight line."""
    word_ngrams: int = Field(2, ge=1, le=8)
    """Runs of up to so many words count as well as words."""
    buckets: int = Field(1 << 18, ge=1, le=1 << 30)
    """Of the hash table of these runs; the model file has 4 x dim bytes for each."""
    min_count: int = Field(2, ge=1)
    """Rarer words are not learnt; runs with them are."""
    loss: Literal["softmax", "ova"] = "softmax"
    """softmax: the probabilities of the labels add up to 1; ova: each label against the others."""
    seed: int = Field(1, ge=0, lt=1 << 31)
    threads: int = Field(1, ge=1)
    """With more than one they race for the weights: faster, but no two models are the same. One: equal texts in equal
    order give equal bytes."""


@dataclass(frozen=True)
class TextClassifier:
    """A trained classifier; `labels` (as they first came in training) are the columns of `probabilities`."""

    labels: tuple[str, ...]
    settings: ModelSettings
    text: TextSettings
    model: Any
    """fastText's own."""

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        labels: Iterable[str],
        settings: ModelSettings | None = None,
        text: TextSettings | None = None,
        folder: Path | None = None,
    ) -> "TextClassifier":
        """Trains on texts, one label each; see `train_pairs`."""
        return cls.train_pairs(zip(texts, labels, strict=True), settings, text, folder)

    @classmethod
    def train_pairs(
        cls,
        pairs: Iterable[tuple[str, str]],
        settings: ModelSettings | None = None,
        text: TextSettings | None = None,
        folder: Path | None = None,
    ) -> "TextClassifier":
        """Trains on pairs of a text and its label; they are read once, some hundred in memory.

        The prepared lines lie in `folder` (None: the system's for temporary files) until it is done. Texts of one label
        are best not all together: fastText reads them in the order given. Raises `DataError` for fewer than two labels.
        """
        settings, text = settings or ModelSettings(), text or TextSettings()
        with tempfile.TemporaryDirectory(prefix="classify-", dir=folder) as scratch:
            lines = Path(scratch) / "lines.txt"
            names = _write_lines(lines, pairs, text)
            if len(names) < 2:
                raise DataError(f"a classifier needs two labels at least; the texts have {len(names)}")
            model = native.train(
                lines,
                dim=settings.dim,
                epoch=settings.epochs,
                lr=settings.learning_rate,
                wordNgrams=settings.word_ngrams,
                bucket=settings.buckets,
                minCount=settings.min_count,
                loss=settings.loss,
                seed=settings.seed,
                thread=settings.threads,
            )
        return cls(names, settings, text, model)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """fp32 [texts, labels], from 0 to 1; what is said of a text depends on that text alone."""
        parts = [np.empty((0, len(self.labels)), np.float32)]
        for start in range(0, len(texts), _AT_ONCE):
            lines = prepared(texts[start : start + _AT_ONCE], self.text)
            parts.append(native.probabilities(self.model, lines, len(self.labels)))
        return np.concatenate(parts)

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes the model and `model.json`, which says `about` too and is returned; a folder's older one is replaced.

        The model's file is named by its digest and `model.json` is written last: a killed run leaves the older whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder, ".saving") as scratch:
            saved = scratch / "model.bin"
            self.model.save_model(str(saved))
            sha256 = sha256_of(saved)
            with saved.open("rb") as stream:
                written = write_atomic(folder / _file(sha256), lambda out: shutil.copyfileobj(stream, out))
        description = {
            "format": FORMAT,
            "labels": self.labels,
            "text": {"version": VERSION, **self.text.model_dump()},
            "settings": self.settings.model_dump(),
            "model": {"file": _file(sha256), "sha256": written.sha256, "size_bytes": written.size_bytes},
            **(about or {}),
        }
        write_json(folder / DESCRIPTION, description)
        for other in folder.glob("model-*.bin"):
            if other.name != _file(sha256):
                other.unlink()
        return describe(folder)

    @classmethod
    def load(cls, folder: Path) -> "TextClassifier":
        """Raises `DataError` for what is no classifier, of another version, or damaged; nothing is run before that."""
        about = describe(folder)
        path = folder / about["model"]["file"]
        try:
            found = (path.stat().st_size, sha256_of(path))
        except OSError as error:
            raise DataError(f"{folder}: the model cannot be read ({error.strerror or error}); train it again") from None
        if found != (about["model"]["size_bytes"], about["model"]["sha256"]):
            raise DataError(f"{path} is not the file that {DESCRIPTION} describes; train it again")
        labels = tuple(about["labels"])
        return cls(labels, *_settings(about), native.load(path, len(labels)))


def describe(folder: Path) -> dict[str, Any]:
    """What `model.json` says. Raises `DataError` for what is no classifier of this version."""
    try:
        about = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{folder} is no classifier; make one with `data classify train`")
    try:
        _check(about)
    except (KeyError, TypeError, AttributeError, ValidationError):
        raise DataError(f"{folder / DESCRIPTION} is damaged; train the classifier again") from None
    if about["text"].get("version") != VERSION:
        raise DataError(f"{folder}: made by another version, which prepared texts otherwise; train it again")
    return about


def _check(about: Mapping[str, Any]) -> None:
    labels, model = about["labels"], about["model"]
    _settings(about)
    named = isinstance(labels, list) and len(set(labels)) >= 2 and all(isinstance(label, str) for label in labels)
    sound = re.fullmatch(r"[0-9a-f]{64}", model["sha256"]) and model["file"] == _file(model["sha256"])
    if not (named and sound and isinstance(model["size_bytes"], int)):
        raise TypeError


def _settings(about: Mapping[str, Any]) -> tuple[ModelSettings, TextSettings]:
    text = {key: value for key, value in about["text"].items() if key != "version"}
    return ModelSettings.model_validate(about["settings"]), TextSettings.model_validate(text)


def digest(about: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a classifier's answers depend on; `about`: see `describe`."""
    kept = [about.get(key) for key in ("format", "labels", "text", "positive", "threshold")]
    return fingerprint(kept, about["model"]["sha256"])


def _write_lines(path: Path, given: Iterable[tuple[str, str]], settings: TextSettings) -> tuple[str, ...]:
    """Writes the training file; returns the labels as they came: the first is `__label__0` there."""
    pairs, names = iter(given), {}
    with path.open("wb") as out:
        while batch := list(islice(pairs, _AT_ONCE)):
            for line, (_, label) in zip(prepared([text for text, _ in batch], settings), batch, strict=True):
                out.write(b"%s%d %s\n" % (native.LABEL.encode(), names.setdefault(label, len(names)), line))
    return tuple(names)


def _file(sha256: str) -> str:
    return f"model-{sha256[:16]}.bin"
