"""What a selection is asked for: rules, languages, held-out side."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.languages import LANGUAGES

LANGUAGE_RULE = "language"
UNSEARCHED_RULE = "not_searched_for_secrets"
BOTH_SPLITS_RULE = "in_both_splits"


class Rule(BaseModel):
    """Drops documents for which `drop` is true: an SQL expression over documents' columns and `annotator.column`s."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9_.\- ]+$")
    drop: str = Field(min_length=1)
    if_annotated: str | None = None
    """An annotation without which the rule is left out. None: the rule always holds, so what it names must be there."""


DEFAULT_RULES = (
    Rule(name="broken_syntax", drop="syntax.broken", if_annotated="syntax"),
    Rule(name="generated", drop="signs.generated", if_annotated="signs"),
    Rule(name="minified", drop="signs.minified", if_annotated="signs"),
    Rule(name="data_file", drop="signs.data_file", if_annotated="signs"),
    Rule(name="contaminated", drop="decontamination.ngrams > 0", if_annotated="decontamination"),
)
REDACTED_KINDS = ("email", "private_key", "key", "password")


VARIANTS = {
    "file": (
        Rule(name="exact_duplicate", drop="exact_dedup.duplicate_of IS NOT NULL"),
        Rule(name="near_duplicate", drop="near_dedup.duplicate_of IS NOT NULL"),
    ),
    "repository": (
        Rule(name="repository_duplicate", drop="exact_dedup.repository_duplicate_of IS NOT NULL"),
        Rule(name="near_repository", drop="repository_dedup.duplicate_of IS NOT NULL"),
    ),
}


class SelectionConfig(BaseModel):
    """Rules in their order, the languages to keep (None: all), and what is held out, and what is redacted.

    `variant` puts rules before the others (Seed-Coder report, section 2.2.1): `file` drops files that are duplicates of
    another, `repository` drops whole repositories and leaves the others as they are. Both keep clusters of files and
    families of repositories on one side of the split. Without `rules` there are those of the variant (default: `file`)
    and `DEFAULT_RULES`; with `rules` but no `variant`, those rules and no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    variant: Literal["file", "repository"] | None = None
    rules: tuple[Rule, ...] = ()
    languages: tuple[str, ...] | None = None
    held_out: HeldOut = HeldOut()
    redact: tuple[Literal[REDACTED_KINDS], ...] = ()
    """Spans of the annotation `secrets` of these kinds are replaced wherever texts of the selection are read."""

    @model_validator(mode="before")
    @classmethod
    def _with_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        variant = values.get("variant", None if "rules" in values else "file")
        own = VARIANTS.get(variant, ()) if isinstance(variant, str) else ()
        equal = [*own, *(rule.model_dump() for rule in own)]
        rules = values.get("rules", DEFAULT_RULES)
        if isinstance(rules, list | tuple):
            rules = [*own, *(rule for rule in rules if rule not in equal)]
        return {**values, "variant": variant, "rules": rules}

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
        names = [LANGUAGE_RULE, UNSEARCHED_RULE, BOTH_SPLITS_RULE, *(rule.name for rule in rules)]
        if len(set(names)) != len(names):
            raise ValueError(f"rule names must be distinct and other than {', '.join(names[:3])}")
        return rules

    def with_annotations(self, names: Sequence[str]) -> "SelectionConfig":
        """Without the rules that hold only where an annotation was made which is not among `names`."""
        rules = tuple(rule for rule in self.rules if rule.if_annotated is None or rule.if_annotated in names)
        return self.model_copy(update={"rules": rules})

    def annotations(self) -> tuple[str, ...]:
        """The annotations that the variant needs, whether or not a rule names them."""
        return ("exact_dedup", "near_dedup", "repository_dedup") if self.variant else ()

    def ordered_rules(self) -> list[tuple[str, str]]:
        """(name, SQL) of every rule: the language filter first, last what a redaction cannot do without."""
        rules = [(rule.name, rule.drop) for rule in self.rules]
        if self.redact:  # what was not searched cannot be redacted
            rules.append((UNSEARCHED_RULE, "secrets.failed IS NOT NULL"))
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
            raise DataError(f"{path}: a mapping with variant, rules, languages and held_out is expected")
    changes = dict(overrides or {})
    if rules := changes.pop("rules", None):
        if "rules" not in values:
            values = {"variant": "file", "rules": DEFAULT_RULES, **values}
        values["rules"] = [*values["rules"], *rules]
    if held_out := changes.pop("held_out", None):
        values["held_out"] = {**values.get("held_out", {}), **held_out}
    try:
        return SelectionConfig.model_validate(values | changes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path or 'selection'}: {where}: {first['msg']} (got {first['input']!r})") from None
