"""What a selection is asked for: rules, languages, held-out side."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.languages import LANGUAGES

LANGUAGE_RULE = "language"


class Rule(BaseModel):
    """Drops documents for which `drop` is true: an SQL expression over documents' columns and `annotator.column`s."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9_.\- ]+$")
    drop: str = Field(min_length=1)


class SelectionConfig(BaseModel):
    """Rules in their order, the languages to keep (None: all), and what is held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rules: tuple[Rule, ...] = (Rule(name="exact_duplicate", drop="exact_dedup.duplicate_of IS NOT NULL"),)
    languages: tuple[str, ...] | None = None
    held_out: HeldOut = HeldOut()

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for language in languages or ():
            if language not in LANGUAGES:
                near = difflib.get_close_matches(language, LANGUAGES, 1, 0.3)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{language!r} is none of the 89 languages{hint}")
        return languages

    @field_validator("rules")
    @classmethod
    def _distinct(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [LANGUAGE_RULE, *(rule.name for rule in rules)]
        if len(set(names)) != len(names):
            raise ValueError(f"rule names must be distinct and other than {LANGUAGE_RULE!r}")
        return rules

    def ordered_rules(self) -> list[tuple[str, str]]:
        """(name, SQL) of every rule, the language filter first."""
        rules = [(rule.name, rule.drop) for rule in self.rules]
        if self.languages is None:
            return rules
        kept = ", ".join(f"'{language}'" for language in self.languages)
        return [(LANGUAGE_RULE, f"documents.language NOT IN ({kept})"), *rules]


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> SelectionConfig:
    """The defaults, changed by a YAML file, then by `overrides` (same keys; `held_out` is merged, `rules` are added).

    Raises `DataError` naming the key that is wrong.
    """
    values: dict[str, Any] = {}
    if path:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}: a mapping with rules, languages and held_out is expected")
    changes = dict(overrides or {})
    if rules := changes.pop("rules", None):
        default = [rule.model_dump() for rule in SelectionConfig().rules]
        values["rules"] = [*values.get("rules", default), *rules]
    if held_out := changes.pop("held_out", None):
        values["held_out"] = {**values.get("held_out", {}), **held_out}
    try:
        return SelectionConfig.model_validate(values | changes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path or 'selection'}: {where}: {first['msg']} (got {first['input']!r})") from None
