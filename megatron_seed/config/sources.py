"""Builds that a run reads: the sources of a blend, and what it is evaluated on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from megatron_seed.config.section import Fraction, Positive, Section


class BuildsConfig(Section):
    """Builds under one name."""

    name: str
    builds: tuple[str, ...] = Field(min_length=1)
    """Prefixes of `.bin/.idx` builds; epoch e of the source reads builds[e % len(builds)]."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of tokens, relative to the other sources."""
    fim: Fraction | None = None
    """Fill-in-the-middle rate that these builds must have, where it is not the phase's."""

    @field_validator("builds", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class SourceConfig(BuildsConfig):
    """One data source of a blend."""

    loss: Literal["all", "target"] | None = None
    """Tokens whose loss counts: all, or the targets of documents, which the builds must record. None: the targets where
    the builds record them (`data build --loss target`)."""


class HeldOutConfig(BuildsConfig):
    """One held-out build."""

    score: Literal["all", "middle", "target"] | None = None
    """Tokens whose loss counts: all, those of the middles that infilling documents ask for, or the targets, which the
    build must record. None: the targets where the build records them, else all."""

    @property
    def loss(self) -> Literal["all", "target"] | None:
        """Like a source's."""
        return "all" if self.score == "middle" else self.score


class EvaluationConfig(Section):
    """Held-out loss, on builds that no phase trains on."""

    held_out: tuple[HeldOutConfig, ...] = ()
    every_steps: Positive = 500
    max_sequences: Positive = 256
    """Per source, taken evenly over the build; the same ones each time."""
    micro_batch_size: Positive = 4
