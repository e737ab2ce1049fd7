"""What a selection is asked for: rules, languages, held-out side, redaction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError, field_validator, model_validator

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.selection.rules import (
    DEFAULT_RULES,
    VARIANTS,
    Condition,
    Rule,
    check_languages,
    condition,
)
from data_prep.settings import Settings, in_words, merged, read_mapping

LANGUAGE_RULE = "language"
UNSEARCHED_RULE = "not_searched_for_secrets"
BOTH_SPLITS_RULE = "in_both_splits"
REDACTED_KINDS = ("email", "private_key", "key", "password")


class SelectionConfig(Settings):
    """Rules in their order, the languages to keep (None: all), what is held out, and what is redacted.

    `variant` puts rules before the others (Seed-Coder report, section 2.2.1): `file` drops files that are duplicates of
    another, `repository` drops whole repositories and leaves the others as they are. Both keep clusters of files and
    families of repositories on one side of the split. Without `rules` there are those of the variant (default: `file`)
    and `DEFAULT_RULES`; with `rules` but no `variant`, those rules and no others.
    """

    variant: Literal["file", "repository"] | None = None
    rules: tuple[Rule, ...] = ()
    languages: Annotated[tuple[str, ...], AfterValidator(check_languages)] | None = None
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

    def conditions(self, answers: Mapping[str, str]) -> list[Condition]:
        """Every rule as SQL: the language filter first, last what a redaction cannot do without.

        `answers`: rule -> SQL of what its function said.
        """
        found = [condition(rule, answers) for rule in self.rules]
        if self.redact:  # what was not searched cannot be redacted
            unsearched = "secrets.failed IS NOT NULL"
            found.append(Condition(UNSEARCHED_RULE, unsearched, unsearched))
        if self.languages is None:
            return found
        kept = ", ".join(f"'{language}'" for language in self.languages)
        other = f"documents.language NOT IN ({kept})"
        return [Condition(LANGUAGE_RULE, other, other), *found]


def load_config(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> SelectionConfig:
    """The defaults, changed by a YAML file, then by `changes`, then by `overrides`, whose `rules` are added.

    Sections are merged. Raises `DataError` naming the key that is wrong.
    """
    values = merged(read_mapping(path, SelectionConfig) if path else {}, changes or {})
    stronger = dict(overrides or {})
    if rules := stronger.pop("rules", None):
        if "rules" not in values:
            values = {"variant": "file", "rules": DEFAULT_RULES, **values}
        if isinstance(values["rules"], list | tuple):
            values["rules"] = [*values["rules"], *rules]
    try:
        return SelectionConfig.model_validate(merged(values, stronger))
    except ValidationError as error:
        raise DataError(f"{path or 'selection'}: {in_words(error, SelectionConfig)}") from None
