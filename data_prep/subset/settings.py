"""What a subset is asked for: sources with their seeds, what counts as good, negatives, rounds.

Conditions are SQL over documents' columns and `annotation.column`s, as in a selection.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from data_prep.classify.model import ModelSettings
from data_prep.classify.preparation import TextSettings
from data_prep.held_out import HeldOut
from data_prep.settings import Settings, load_settings

Sql = Annotated[str, Field(min_length=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
MOST_ROUNDS = 20


class Threshold(Settings):
    """Where the probabilities of a source are cut, anew in each round: exactly one of these."""

    share: float | None = Field(None, gt=0, lt=1)
    """Of the source's documents, at most so many are recalled, those with the highest probability; more only where more
    have the very highest."""
    recall: float | None = Field(None, gt=0, le=1)
    """Of the good documents in held-out repositories, at least so many are recalled."""

    @model_validator(mode="after")
    def _one(self) -> "Threshold":
        if (self.share is None) == (self.recall is None):
            raise ValueError("exactly one of share and recall is needed")
        return self


class HardNegatives(Settings):
    """Documents that look good to one measure and are not wanted. Seeds are never among them."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.\- ]+$")
    where: Sql
    recalled: bool = False
    """Only what a round before recalled; so there are none in the first. The report's are of the round before: a third
    round that is not shown what the first recalled wrongly recalls it again."""
    per_positive: float = Field(0.25, ge=0, le=100)
    """At most so many for each positive. Ours."""


class NewPositives(Settings):
    """What a round adds to the positives of the next: recalled, at least so probable, and where this is true."""

    where: Sql = "quality.score >= 7"
    probability: Probability = 0.9
    most: int = Field(100_000, ge=0)
    """In each round; drawn by a keyed hash where there are more. Ours."""


HARD_NEGATIVES = (
    HardNegatives(name="uncommented", where="quality.score >= 7 AND structure.comment_share = 0"),
    HardNegatives(name="recalled but poor", where="quality.score < 5", recalled=True),
)
"""The kinds are the report's (section 2.2.4), the scores ours."""


class Source(Settings):
    """A part of the corpus with seeds of its own (Seed-Coder report, section 2.2.4). Sources may overlap.

    What is not given here is as it is for all.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    where: Sql = "true"
    """Which documents it is about: what its classifier is trained on and applied to."""
    seeds: Sql
    seed_count: int = Field(100_000, ge=1)
    """Drawn by a keyed hash where there are more; about so many are the report's."""
    good: Sql | None = None
    threshold: Threshold | None = None
    hard_negatives: tuple[HardNegatives, ...] | None = None
    new_positives: NewPositives | None = None

    @field_validator("hard_negatives")
    @classmethod
    def _distinct(cls, rules: tuple[HardNegatives, ...] | None) -> tuple[HardNegatives, ...] | None:
        return _unique("hard negatives", rules)

    def conditions(self) -> dict[str, str]:
        """What its SQL is asked for, by the name that messages give it. Only of a source of `SubsetConfig.resolved`."""
        hard = {f"hard_negatives {rule.name!r}": rule.where for rule in self.hard_negatives}
        plain = {"where": self.where, "seeds": self.seeds, "good": self.good}
        return {**plain, "new_positives.where": self.new_positives.where, **hard}


class Classifier(ModelSettings):
    """Pairs of words count, too: code needs them more than pages do (measured)."""

    word_ngrams: int = Field(2, ge=1, le=8)


class SubsetConfig(Settings):
    """Two or three rounds and about 100,000 seeds for each source are the report's; other values are ours."""

    sources: tuple[Source, ...] = Field(min_length=1)
    selection: str | None = None
    """Only documents that this selection keeps. None: all, duplicates too."""
    score: Sql = "quality.score"
    """The number whose distribution is reported."""
    good: Sql = "quality.score >= 7"
    """What a round is measured by: null, and a document is not counted."""
    rounds: int = Field(3, ge=1, le=MOST_ROUNDS)
    random_negatives: float = Field(1.0, gt=0, le=100)
    """For each positive, drawn anew in each round from what is no seed."""
    hard_negatives: tuple[HardNegatives, ...] = HARD_NEGATIVES
    new_positives: NewPositives = NewPositives()
    threshold: Threshold = Threshold(share=0.1)
    minimum_seeds: int = Field(50, ge=1)
    """A source with fewer is left out, and named."""
    validation: HeldOut = HeldOut(fraction=0.1)
    """Repositories that rounds are measured on and that nothing is trained on."""
    classifier: Classifier = Classifier()
    least_examples: int = Field(25_000, ge=0)
    """Where there are few texts to train on, there are more epochs, until so many have been shown."""
    text: TextSettings = TextSettings()
    seed: int = 1234
    """Of all draws."""
    examples: int = Field(4, ge=0, le=100)
    """Documents of each kind that the report shows."""

    @field_validator("sources", "hard_negatives")
    @classmethod
    def _distinct(cls, named: tuple[Any, ...]) -> tuple[Any, ...]:
        return _unique("sources and hard negatives", named)

    def resolved(self) -> tuple[Source, ...]:
        """The sources, with what they take from here filled in."""
        shared = ("good", "threshold", "hard_negatives", "new_positives")
        return tuple(
            source.model_copy(update={key: getattr(self, key) for key in shared if getattr(source, key) is None})
            for source in self.sources
        )


def _unique(what: str, named: Iterable[Any] | None) -> Any:
    if named is not None and len({one.name for one in named}) != len(tuple(named)):
        raise ValueError(f"names of {what} must be distinct")
    return named


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> SubsetConfig:
    """What a YAML file says, changed by `overrides`, whose sections are merged.

    Raises `DataError` naming the key that is wrong.
    """
    return load_settings(SubsetConfig, "subset", path, overrides)
