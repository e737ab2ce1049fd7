"""What rounds have made of the documents of a shard: positives, candidates, what was recalled.

Nothing of it is stored: it follows from the facts, from each round's scores and from a few numbers about a round, which
is what makes a round a function of those before it.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.partitions import mix
from data_prep.storage import read_parquet
from data_prep.subset.facts import hard
from data_prep.subset.settings import Source

SEEDS, RANDOM = "seeds", "random"
_FOUND, _HARD = "found in round ", "hard: "
BINS = 1024  # of log-odds from -MOST_ODDS to MOST_ODDS, by which probabilities are compared: exact, and small to count
MOST_ODDS = 12.0


def found(round_: int) -> str:
    """The kind of what a round found."""
    return f"{_FOUND}{round_}"


def is_positive(kind: str) -> bool:
    return kind == SEEDS or kind.startswith(_FOUND)


def bin_of(log_odds: np.ndarray | float) -> np.ndarray:
    """int64; NaN (no answer) is -1, which no threshold reaches."""
    odds = np.asarray(log_odds, np.float64)
    bins = np.floor((np.clip(odds, -MOST_ODDS, MOST_ODDS) + MOST_ODDS) * (BINS / (2 * MOST_ODDS)))
    return np.where(np.isnan(odds), -1, np.minimum(np.nan_to_num(bins), BINS - 1)).astype(np.int64)


def bin_of_probability(probability: float) -> int:
    if probability in (0, 1):
        return (BINS - 1) * int(probability)
    return int(bin_of(math.log(probability / (1 - probability))))


def probability_of(log_odds: np.ndarray | float) -> Any:
    return 1 / (1 + np.exp(-np.asarray(log_odds, np.float64)))


def probability_of_bin(index: int) -> float:
    """The lowest that falls into it."""
    return float(probability_of(index * 2 * MOST_ODDS / BINS - MOST_ODDS))


def id_words(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 [rows, 2] of documents' ids, 32 hex digits each."""
    data = bytes.fromhex("".join(ids.to_pylist()))
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def keys(words: np.ndarray, *purpose: Any) -> np.ndarray:
    """uint64 [rows]: a keyed hash of ids; another purpose is another order."""
    salt = hashlib.sha256(":".join(map(str, purpose)).encode()).digest()[:8]
    return mix(mix(words[:, 0] ^ np.frombuffer(salt, np.uint64)[0]) ^ words[:, 1])


@dataclass(frozen=True)
class Round:
    """What is known of a finished round of a source: all that later ones depend on."""

    cuts: Mapping[str, int]
    """Kind -> the highest key that was drawn of it; a kind of which nothing was has none."""
    threshold: int
    """The lowest bin that is recalled."""
    scores: tuple[Path, ...]
    """Of each shard."""


@dataclass(frozen=True)
class Plan:
    """A source and its rounds so far."""

    source: Source
    seed: int
    facts: tuple[Path, ...]
    """Of each shard."""
    rounds: tuple[Round, ...] = ()

    @property
    def number(self) -> int:
        """Of the round that comes next."""
        return len(self.rounds) + 1

    def hard_kinds(self) -> dict[str, int]:
        """Kinds of hard negatives that the next round draws -> index of the rule."""
        rules = enumerate(self.source.hard_negatives)
        return {f"{_HARD}{rule.name}": index for index, rule in rules if self.rounds or not rule.recalled}

    def kinds(self) -> list[str]:
        """What the next round draws; a document that is drawn twice is of the kind that comes first."""
        return [SEEDS, *(found(number) for number in range(1, self.number)), *self.hard_kinds(), RANDOM]

    def changing_kinds(self) -> list[str]:
        """Kinds that the last round has changed the candidates of; before the first, hard negatives."""
        hard = [
            kind
            for kind, index in self.hard_kinds().items()
            if self.source.hard_negatives[index].recalled or not self.rounds
        ]
        return [found(len(self.rounds)), *hard] if self.rounds else hard

    def key(self, words: np.ndarray, kind: str) -> np.ndarray:
        """uint64 [rows]. Positives stay what they are; negatives are drawn anew in each round."""
        anew = () if is_positive(kind) else (self.number,)
        return keys(words, self.seed, self.source.name, kind, *anew)


@dataclass(frozen=True)
class ShardState:
    """The documents of one shard as a plan sees them; arrays are [rows]."""

    plan: Plan
    index: int
    words: np.ndarray
    """Of the ids: uint64 [rows, 2]."""

    @cached_property
    def facts(self) -> dict[str, np.ndarray]:
        return read_facts(self.plan.facts[self.index])

    def recalled(self, round_: int) -> np.ndarray:
        return self._bins[round_ - 1] >= self.plan.rounds[round_ - 1].threshold

    @cached_property
    def _bins(self) -> list[np.ndarray]:
        """Of each round, int16: a shard's scores are asked for several times, and read once."""
        scores = (round_.scores[self.index] for round_ in self.plan.rounds)
        return [bin_of(read_log_odds(path)).astype(np.int16) for path in scores]

    @cached_property
    def _positives(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(since which round a document is a positive, 0: it is none; kind -> candidates).

        Of what the last round found it is not known yet which are drawn: these are candidates only.
        """
        facts, rounds = self.facts, self.plan.rounds
        trainable = facts["inside"] & ~facts["validation"]
        candidates = {SEEDS: trainable & facts["seed"]}
        since = np.where(candidates[SEEDS] & self._drawn(SEEDS, 1), 1, 0)
        may_be_new = trainable & facts["new"]
        for index, rule in enumerate(self.plan.source.hard_negatives):
            if not rule.recalled:
                may_be_new &= ~facts[hard(index)]
        least = bin_of_probability(self.plan.source.new_positives.probability)
        for number in range(1, self.plan.number):
            bound = max(least, rounds[number - 1].threshold)
            candidates[found(number)] = new = may_be_new & (since == 0) & (self._bins[number - 1] >= bound)
            since[new & self._drawn(found(number), number + 1)] = number + 1
        return since, candidates

    @property
    def since(self) -> np.ndarray:
        """int64: the round from which on a document was trained on as a positive, 0 where it never was."""
        return self._positives[0]

    def _drawn(self, kind: str, round_: int) -> np.ndarray:
        """bool: under the cut of a round, if it has been."""
        cuts = self.plan.rounds[round_ - 1].cuts if round_ < self.plan.number else {}
        if kind not in cuts:
            return np.zeros(len(self.words), bool)
        return self.plan.key(self.words, kind) <= np.uint64(cuts[kind])

    @cached_property
    def candidates(self) -> dict[str, np.ndarray]:
        """Kind -> bool: what the next round may draw of it. A negative is neither a seed, drawn or not, nor a find."""
        facts, (since, made) = self.facts, self._positives
        left = facts["inside"] & ~facts["validation"] & ~np.any([since > 0, *made.values()], axis=0)
        made, taken = dict(made), np.zeros(len(left), bool)
        for kind, index in self.plan.hard_kinds().items():
            made[kind] = left & facts[hard(index)] & ~taken
            if self.plan.source.hard_negatives[index].recalled:
                made[kind] &= np.any([self.recalled(number) for number in range(1, self.plan.number)], axis=0)
            taken |= made[kind]
        made[RANDOM] = left
        return made


def read_facts(path: Path) -> dict[str, np.ndarray]:
    """Columns of facts; `good` is 0, 1, or 2 where nothing is said; `score` is NaN where there is none."""
    table = read_parquet(path, use_threads=False)
    filled = {"good": table["good"].cast(pa.int8()).fill_null(2), "score": table["score"].fill_null(np.nan)}
    return {name: filled.get(name, table[name]).to_numpy() for name in table.column_names}


def read_log_odds(path: Path) -> np.ndarray:
    """fp32 [rows], NaN outside of the source."""
    return read_parquet(path, ["log_odds"], use_threads=False)["log_odds"].fill_null(np.nan).to_numpy()
