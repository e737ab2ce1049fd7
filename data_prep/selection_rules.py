"""Rules of a selection: which documents are dropped, and how that is asked of the database.

A rule is one of four things: an SQL condition, a threshold for a number, a share of the documents with the lowest
numbers, or a function of the user's own. Whatever it looks at is a column of the documents or of an annotation.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from data_prep.languages import LANGUAGES

FUNCTION_REFERENCE = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


def check_languages(languages: Iterable[str]) -> Any:
    """The same languages. Raises `ValueError` with the nearest name for one that is none of the 89."""
    for language in languages:
        if language not in LANGUAGES:
            near = difflib.get_close_matches(language, LANGUAGES, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{language!r} is none of the 89 languages{hint}")
    return languages


Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threshold(_Strict):
    """A number for each language; documents of languages without one are not judged."""

    of: str = Field(min_length=1)
    """What is compared: a column such as `quality.score`, or any SQL that gives a number."""
    default: Number | None = None
    """For languages that are not named."""
    languages: Annotated[Mapping[str, Number], AfterValidator(check_languages)] = {}

    @model_validator(mode="after")
    def _says_something(self) -> "Threshold":
        if self.default is None and not self.languages:
            raise ValueError("a threshold is needed: default, or one for each of some languages")
        return self

    def text(self, comparison: str) -> str:
        limits = [f"{language} {_plain(limit)}" for language, limit in self.languages.items()]
        if self.default is None:
            return f"{self.of} {comparison} {', '.join(limits)}"
        named = f" ({', '.join(limits)})" if limits else ""
        return f"{self.of} {comparison} {_plain(self.default)}{named}"


class Lowest(_Strict):
    """Of n documents that have the number and that no rule before drops, the floor(share x n) with the lowest.

    Among equal numbers the first by id, which is a hash of where the document is from, so it says nothing of the text.
    Documents without the number (null, or not a number) neither count nor are dropped.
    """

    of: str = Field(min_length=1)
    """What is compared: a column such as `quality.score`, or any SQL that gives a number."""
    share: Share
    per: str | None = Field(None, min_length=1)
    """What documents are counted apart by, such as `language`, `source`, or any SQL. None: all together."""
    languages: Annotated[Mapping[str, Share], AfterValidator(check_languages)] = {}
    """Other shares of some languages; only with `per: language`."""

    @model_validator(mode="after")
    def _shares_apart(self) -> "Lowest":
        if self.languages and self.per != "language":
            raise ValueError("shares of single languages need `per: language`")
        return self

    def text(self) -> str:
        named = ", ".join(f"{language} {_percent(share)}" for language, share in self.languages.items())
        each = f" per {self.per}" if self.per else ""
        return f"lowest {_percent(self.share)} of {self.of}{each}{f' ({named})' if named else ''}"


class Rule(_Strict):
    """Exactly one of `drop`, `below`, `above`, `lowest` and `function` says which documents are dropped."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.\- ]+$")
    drop: str | None = Field(None, min_length=1)
    """SQL over documents' columns and `annotation.column`s; drops where it is true."""
    below: Threshold | None = None
    above: Threshold | None = None
    lowest: Lowest | None = None
    function: str | None = Field(None, pattern=f"^{FUNCTION_REFERENCE}$")
    """`module:object`, marked with `@selection_function`; drops where it says true."""
    settings: Mapping[str, Any] = {}
    """The function's."""
    if_annotated: str | None = None
    """An annotation without which the rule is left out. None: the rule always holds, so what it names must be there."""

    @model_validator(mode="after")
    def _one_way(self) -> "Rule":
        ways = ("drop", "below", "above", "lowest", "function")
        if sum(getattr(self, way) is not None for way in ways) != 1:
            raise ValueError(f"exactly one of {', '.join(ways)} is needed")
        if self.settings and not self.function:
            raise ValueError("settings are for a function")
        return self

    def text(self) -> str:
        """What it drops, in a line."""
        if self.function:
            given = ", ".join(f"{key}={value}" for key, value in self.settings.items())
            return f"{self.function}({given})"
        if self.lowest:
            return self.lowest.text()
        if self.below:
            return self.below.text("<")
        return self.above.text(">") if self.above else self.drop


def rule_of(name: str, text: str) -> dict[str, str]:
    """A rule as a command line gives it: SQL, or `module:function`."""
    return {"name": name, "function" if re.fullmatch(FUNCTION_REFERENCE, text) else "drop": text}


@dataclass(frozen=True)
class Condition:
    """A rule as SQL. `drops` is its condition; of a `lowest`, there are `number`, `per` and `share` instead.

    `number`: what a threshold or a share looks at, null where a document has none.
    """

    name: str
    text: str
    drops: str | None
    number: str | None = None
    per: str = "0"
    share: str = "0"

    def queries(self) -> Iterator[str]:
        """Every piece of SQL that the user wrote, as the database is asked for it."""
        if self.drops:
            yield f"({self.drops})::BOOLEAN"
        if self.number:
            yield self.number
        if not self.drops:
            yield f"({self.per})::VARCHAR"

    def words(self) -> set[str]:
        return {word for query in self.queries() for word in re.findall(r"\w+", query)}


def condition(rule: Rule, answers: Mapping[str, str]) -> Condition:
    """A rule as SQL. `answers`: rule -> SQL of what its function said."""
    if rule.function:
        return Condition(rule.name, rule.text(), answers[rule.name])
    if rule.drop:
        return Condition(rule.name, rule.text(), rule.drop)
    judged = rule.below or rule.above or rule.lowest
    number = f"CASE WHEN NOT isnan({judged.of}) THEN {judged.of} END"
    if rule.lowest:
        share = _by_language(rule.lowest.languages, rule.lowest.share)
        return Condition(rule.name, rule.text(), None, number, rule.lowest.per or "0", share)
    sign = "<" if rule.below else ">"
    return Condition(
        rule.name, rule.text(), f"{number} {sign} {_by_language(judged.languages, judged.default)}", number
    )


def _by_language(values: Mapping[str, float], default: float | None) -> str:
    other = "NULL" if default is None else _plain(default)
    cases = "".join(f" WHEN '{language}' THEN {_plain(value)}" for language, value in values.items())
    return f"CASE documents.language{cases} ELSE {other} END" if cases else other


def _plain(number: float) -> str:
    """Exactly the digits that Python prints, without an exponent: DuckDB reads them as a decimal, not as a binary."""
    return f"{Decimal(repr(number)):f}"


def _percent(share: float) -> str:
    return f"{100 * Decimal(repr(share)):f}".rstrip("0").rstrip(".") + " %"


DEFAULT_RULES = (
    Rule(name="broken_syntax", drop="syntax.broken", if_annotated="syntax"),
    Rule(name="generated", drop="signs.generated", if_annotated="signs"),
    Rule(name="minified", drop="signs.minified", if_annotated="signs"),
    Rule(name="data_file", drop="signs.data_file", if_annotated="signs"),
    Rule(name="contaminated", drop="decontamination.ngrams > 0", if_annotated="decontamination"),
    Rule(
        name="low_quality",
        lowest=Lowest(of="quality.score", share=0.1, per="language"),
        if_annotated="quality",
    ),
)
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
