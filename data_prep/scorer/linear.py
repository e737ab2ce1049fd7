"""The cheap scorer: a linear model of hashed n-grams and of what each sign's value is worth, overall and by language.

Signs enter as piecewise linear functions: each has knots at its quantiles, and a value counts for the two knots it lies
between. All weights come from one least-squares fit with a ridge penalty, chosen on repositories that the fit does not
see. Nothing of it needs a GPU, and it is the default where there is none.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors.numpy import load_file, save
from scipy.sparse import csr_matrix, hstack

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.scorer.design import Design, joined
from data_prep.scorer.features import SIGNS, features, products
from data_prep.shards import write_atomic, write_json

WEIGHTS, SETTINGS = "weights.safetensors", "linear.json"
_SIGN_SCALE, _CROSS_SCALE = 0.2, 0.1  # signs by language are shrunk more than signs
_BLOCK_FILES = 2048

Block = tuple[csr_matrix, np.ndarray, np.ndarray]


class LinearSettings(BaseModel):
    """How a linear scorer is made. The values are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read_bytes: int = Field(1 << 16, ge=256)
    """Of a file; what comes after is not looked at, its length is."""
    buckets: int = Field(1 << 18, ge=1 << 10, le=1 << 26)
    """Of the hash table of n-grams, a power of two."""
    knots: int = Field(14, ge=2, le=64)
    """Of each sign."""
    language_files: int = Field(50, ge=2)
    """Languages with fewer scored files share one set of weights."""
    ridge: tuple[float, ...] = Field((0.4, 0.7, 1.2, 2.0), min_length=1)
    """Penalties that are tried."""
    tuning: float = Field(0.15, gt=0, lt=0.5)
    """Share of the repositories on which they are compared."""
    most_bytes: int = Field(1 << 31, ge=1)
    """Of scored files in all, those held out among them; a byte of text takes about 4 of memory. Of more, files are
    taken by a hash of the seed and their ids."""

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets & (buckets - 1):  # a hash is cut to bits, so others would be written behind the table
            below = 1 << (buckets.bit_length() - 1)
            raise ValueError(f"a power of two is expected, such as {below:,} or {2 * below:,}")
        return buckets


@dataclass(frozen=True)
class LinearScorer:
    """A fitted linear scorer."""

    settings: LinearSettings
    languages: tuple[str, ...]
    """Those with weights of their own; others share the last set."""
    mean: float
    hashed: np.ndarray
    """[buckets] fp32."""
    knots: np.ndarray
    """[signs, knots] fp32, ascending; repeated where a sign takes few values."""
    worth: np.ndarray
    """[languages + 1, signs, knots] fp32: a sign's own and its language's weights, added."""
    offsets: np.ndarray
    """[languages + 1] fp32."""

    def score(self, documents: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores from 0 to 10, fp32, of documents with `text` and `language`."""
        sums, signs = products(_texts(documents), self.settings.read_bytes, self.hashed)
        groups = _groups(documents, self.languages)
        places, shares = _between(signs, self.knots)
        columns = np.arange(len(SIGNS))
        for step, share in ((0, 1 - shares), (1, shares)):
            sums = sums + (self.worth[groups[:, None], columns, places + step] * share).sum(axis=1)
        return np.clip(sums + self.offsets[groups] + self.mean, 0.0, 10.0).astype(np.float32)

    def save(self, folder: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("hashed", "knots", "worth", "offsets")}
        write_atomic(folder / WEIGHTS, lambda stream: stream.write(save(arrays)))
        about = {"signs": SIGNS, "languages": self.languages, "mean": self.mean, "settings": self.settings.model_dump()}
        write_json(folder / SETTINGS, about)

    @classmethod
    def load(cls, folder: Path) -> "LinearScorer":
        about = json.loads((folder / SETTINGS).read_bytes())
        if tuple(about["signs"]) != SIGNS:
            raise DataError(f"{folder}: made by another version, which looked at other signs; train it again")
        settings = LinearSettings.model_validate(about["settings"])
        return cls(settings, tuple(about["languages"]), about["mean"], **load_file(folder / WEIGHTS))


def fit(
    documents: Sequence[Mapping[str, Any]], scores: np.ndarray, settings: LinearSettings, seed: int
) -> tuple[LinearScorer, dict[str, Any]]:
    """Fits a scorer to documents with `text`, `language` and `repository`; also what was tried and chosen."""
    counts = Counter(document["language"] for document in documents)
    languages = tuple(sorted(name for name, count in counts.items() if count >= settings.language_files))
    split = HeldOut(fraction=settings.tuning, seed=seed)
    tuning = np.array([split.holds_out(f"tuning:{document['repository']}") for document in documents])
    sides = [np.flatnonzero(~tuning), np.flatnonzero(tuning)]
    blocks = [_extracted([documents[place] for place in side], languages, settings) for side in sides]
    knots = _knots(np.concatenate([signs for own in blocks for _, signs, _ in own]), settings.knots)
    designs = [_design(own, knots, len(languages) + 1) for own in blocks]
    tried = _try_penalties(designs, [scores[side] for side in sides], settings.ridge)
    chosen = min(tried, key=tried.__getitem__) if tried else settings.ridge[len(settings.ridge) // 2]
    mean = float(np.mean(scores))
    weights = joined(designs).solve(scores[np.concatenate(sides)] - mean, chosen)
    parts = _unpack(weights, settings.buckets, knots.shape, len(languages) + 1)
    return LinearScorer(settings, languages, mean, knots=knots, **parts), {
        "ridge": chosen,
        "tuning_mae": {str(penalty): error for penalty, error in tried.items()},
    }


def _extracted(
    documents: Sequence[Mapping[str, Any]], languages: Sequence[str], settings: LinearSettings
) -> list[Block]:
    """Of some documents at a time: hashed features, signs, and which set of language weights each has."""
    blocks = []
    for start in range(0, len(documents), _BLOCK_FILES):
        own = documents[start : start + _BLOCK_FILES]
        columns, values, offsets, signs = features(_texts(own), settings.read_bytes, settings.buckets)
        hashed = csr_matrix((values, columns, offsets), shape=(len(own), settings.buckets))
        blocks.append((hashed, signs, _groups(own, languages)))
    return blocks


def _design(blocks: list[Block], knots: np.ndarray, sets: int) -> Design:
    """With signs in the place of their plain values. Empties `blocks`, so that no more than one is there twice."""
    made = []
    while blocks:
        hashed, signs, groups = blocks.pop(0)
        made.append(hstack([hashed, *_sign_blocks(signs, knots, groups, sets)], format="csr", dtype=np.float32))
    return Design(tuple(made))


def _texts(documents: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [document["text"].encode("utf-8", "surrogatepass") for document in documents]


def _groups(documents: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> np.ndarray:
    """Which set of language weights each document has."""
    numbers = {language: number for number, language in enumerate(languages)}
    return np.array([numbers.get(document["language"], len(numbers)) for document in documents], np.int64)


def _knots(signs: np.ndarray, count: int) -> np.ndarray:
    """At quantiles that lie closer towards the ends, where what is unusual is told apart."""
    shares = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, count))
    return np.ascontiguousarray(np.quantile(signs, shares, axis=0).T.astype(np.float32))


def _between(signs: np.ndarray, knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each sign of each file: the knot below it (never the last) and how far it is to the next, from 0 to 1."""
    places, shares = np.empty(signs.shape, np.int64), np.empty(signs.shape, np.float32)
    for sign, own in enumerate(knots):
        place = np.clip(np.searchsorted(own, signs[:, sign], side="right") - 1, 0, len(own) - 2)
        width = own[place + 1] - own[place]
        share = (signs[:, sign] - own[place]) / np.where(width > 0, width, 1)
        places[:, sign], shares[:, sign] = place, np.clip(share, 0, 1)
    return places, shares


def _sign_blocks(signs: np.ndarray, knots: np.ndarray, groups: np.ndarray, languages: int) -> list[csr_matrix]:
    """Signs for all languages, signs by language, and the languages themselves."""
    files, (count, width) = len(signs), knots.shape
    places, shares = _between(signs, knots)
    own = np.arange(count) * width + places
    columns = np.stack([own, own + 1], axis=2).reshape(files, -1)
    values = np.stack([1 - shares, shares], axis=2).reshape(files, -1)
    bounds = np.arange(files + 1) * columns.shape[1]
    by_language = columns + (groups * count * width)[:, None]
    return [
        csr_matrix((_SIGN_SCALE * values.ravel(), columns.ravel(), bounds), shape=(files, count * width)),
        csr_matrix(
            (_CROSS_SCALE * values.ravel(), by_language.ravel(), bounds), shape=(files, languages * count * width)
        ),
        csr_matrix((np.ones(files, np.float32), groups, np.arange(files + 1)), shape=(files, languages)),
    ]


def _try_penalties(
    designs: Sequence[Design], scores: Sequence[np.ndarray], penalties: Sequence[float]
) -> dict[float, float]:
    """Mean absolute error on the second of two designs, after fits to the first, by penalty; nothing where there are
    too few rows to tell."""
    if len(penalties) == 1 or min(design.rows for design in designs) < 20:
        return {}
    (known, unknown), mean = scores, scores[0].mean()
    errors = {}
    for penalty in penalties:
        predicted = designs[1].predict(designs[0].solve(known - mean, penalty)) + mean
        errors[penalty] = float(np.abs(np.clip(predicted, 0, 10) - unknown).mean())
    return errors


def _unpack(weights: np.ndarray, buckets: int, shape: tuple[int, int], languages: int) -> dict[str, np.ndarray]:
    """The scorer's arrays, of the weights in the order of the design's columns."""
    count = shape[0] * shape[1]
    bounds = np.cumsum([buckets, count, languages * count])
    hashed, signs, crossed, offsets = np.split(weights.astype(np.float32), bounds)
    worth = _SIGN_SCALE * signs.reshape(1, *shape) + _CROSS_SCALE * crossed.reshape(languages, *shape)
    return {"hashed": hashed, "worth": worth.astype(np.float32), "offsets": offsets}
