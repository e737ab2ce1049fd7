"""What mixtures are asked for: categories with their builds, and for each phase how much of them."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from data_prep.settings import Settings, load_settings


def _whole_number(value: Any) -> Any:
    """1e12 is a word in YAML 1.1, and a float in Python."""
    if isinstance(value, str) and re.fullmatch(r"\d[\d_]*(\.\d*)?[eE]\+?\d+", value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, BeforeValidator(_whole_number), Field(gt=0)]
Rate = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Category(Settings):
    """One source of a blend, under the name that it has in recipes."""

    builds: tuple[str, ...] = Field(min_length=1)
    """Folders of `data build`, or builds by prefix. All are of the same documents: one build for each epoch and rate.
    Like all paths of a recipe they are seen from where the run starts."""
    fim: Rate | None = None
    """Fill-in-the-middle rate in every phase, whatever the phase's: 0 for what is no single file of code."""
    max_epochs: float | None = Field(None, gt=0)
    """Over all phases together; more are refused."""

    @field_validator("builds", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Amount(Settings):
    """How much of a category a phase reads: epochs or a share, or neither for what fills the phase up."""

    epochs: float | None = Field(None, gt=0)
    """Passes over its documents."""
    share: float | None = Field(None, gt=0, le=1)
    """Of the phase's tokens."""
    fim: Rate | None = None
    """Fill-in-the-middle rate in this phase, where it is neither the category's nor the phase's."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "Amount":
        if self.epochs is not None and self.share is not None:
            raise ValueError("give epochs or share, not both")
        return self


class Phase(Settings):
    name: Name
    tokens: Tokens | None = None
    """Budget. Without one it is what the epochs come to, with room for the shares."""
    fim: Rate = 0.0
    """Fill-in-the-middle rate of the builds."""
    blend: dict[Name, Amount] = Field(min_length=1)
    fill: str | None = None
    """The category that gives way where amounts and budget disagree: it takes what the others leave."""

    @field_validator("blend", mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        return {key: amount or {} for key, amount in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fills_itself(self) -> "Phase":
        if self.fill is not None and self.fill not in self.blend:
            raise ValueError(f"fill: {self.fill} is not in its blend, which has {', '.join(self.blend)}")
        silent = [name for name, amount in self.blend.items() if amount.epochs is None and amount.share is None]
        for name in silent:
            if name != self.fill:
                raise ValueError(f"{name}: give epochs, or share, or fill: {name} for what is left")
        if self.tokens is None and self.fill:
            raise ValueError(f"fill: {self.fill} needs tokens: what else would it fill up?")
        return self


class MixtureConfig(Settings):
    """All phases of a recipe, or of recipes that go on from one another, in the order of training."""

    categories: dict[Name, Category] = Field(min_length=1)
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> "MixtureConfig":
        names = [phase.name for phase in self.phases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phase named twice: {', '.join(twice)}")
        for phase in self.phases:
            for name in phase.blend:
                if name not in self.categories:
                    raise ValueError(f"phase {phase.name}: no category {name!r}{_nearest(name, self.categories)}")
        return self

    def rate(self, phase: Phase, name: str) -> float:
        """Fill-in-the-middle rate of a category's builds in a phase."""
        said = (phase.blend[name].fim, self.categories[name].fim, phase.fim)
        return next(rate for rate in said if rate is not None)


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> MixtureConfig:
    """What a YAML file says, changed by `overrides`, whose sections are merged.

    Raises `DataError` naming the key that is wrong.
    """
    return load_settings(MixtureConfig, "mixtures", path, overrides)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
