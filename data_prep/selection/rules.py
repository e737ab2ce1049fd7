"""Rules of a selection: which documents are dropped, and how that is asked of the database.

A rule is one of five things: an SQL condition, a threshold for a number, a share of the documents with the lowest
numbers, a share drawn by a keyed hash, or a function of the user's own. Whatever it looks at is a column of the
documents or of an annotation. Thresholds, shares and rates may differ by the language, or by the value of any column.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import duckdb
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from data_prep.database import literal, words_in
from data_prep.held_out import hash_below
from data_prep.languages import LANGUAGES
from data_prep.settings import Settings

FUNCTION_REFERENCE = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


def check_languages(languages: Iterable[str]) -> Any:
    """The same languages. Raises `ValueError` with the nearest name for one that is none of the 89."""
    for language in languages:
        if language not in LANGUAGES:
            near = difflib.get_close_matches(language, LANGUAGES, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{language!r} is none of the 89 languages{hint}")
    return languages


def _as_text(key: Any) -> Any:
    """A key of YAML as the database prints that value: `true`, `2020`."""
    if isinstance(key, bool):
        return str(key).lower()
    return str(key) if isinstance(key, int) else key


Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Key = Annotated[str, BeforeValidator(_as_text)]
_LANGUAGE = "language"


class Threshold(Settings):
    """A number for each value of `by`; documents of values without one are not judged.

    `languages: {...}` is short for `by: language, values: {...}`.
    """

    of: str = Field(min_length=1)
    """What is compared: a column such as `quality.score`, or any SQL that gives a number."""
    default: Number | None = None
    """For values that are not named, and where there is none (null)."""
    by: str | None = Field(None, min_length=1)
    """What thresholds differ by, such as `language`, `site.label`, or any SQL."""
    values: Mapping[Key, Number] = {}
    """Value of `by`, as text -> threshold."""
    languages: Annotated[Mapping[str, Number], AfterValidator(check_languages)] = {}

    @model_validator(mode="after")
    def _says_something(self) -> "Threshold":
        _check_keys(self.by, "by", self.values, "values")
        if self.languages and self.by:
            raise ValueError("languages: {...} is short for `by: language, values: {...}`; give one of them")
        if self.default is None and not self.numbers.values:
            raise ValueError("a threshold is needed: default, or one for each of some languages or values")
        return self

    @property
    def numbers(self) -> "Keyed":
        by, values = (_LANGUAGE, self.languages) if self.languages else (self.by, self.values)
        return Keyed(by, values, self.default)

    def text(self, comparison: str) -> str:
        return f"{self.of} {comparison} {self.numbers.text(_plain)}"


class Lowest(Settings):
    """Of n documents that have the number and that no rule before drops, the floor(share x n) with the lowest.

    Among equal numbers the first by id, which is a hash of where the document is from, so it says nothing of the text.
    Documents without the number (null, or not a number) neither count nor are dropped.
    """

    of: str = Field(min_length=1)
    """What is compared: a column such as `quality.score`, or any SQL that gives a number."""
    share: Share
    per: str | None = Field(None, min_length=1)
    """What documents are counted apart by, such as `language`, `source`, or any SQL. None: all together."""
    shares: Mapping[Key, Share] = {}
    """Other shares of some values of `per`."""
    languages: Annotated[Mapping[str, Share], AfterValidator(check_languages)] = {}
    """`shares` of some languages; only with `per: language`."""

    @model_validator(mode="after")
    def _shares_apart(self) -> "Lowest":
        _check_keys(self.per, "per", self.shares, "shares")
        if self.languages and self.per != _LANGUAGE:
            raise ValueError("shares of single languages need `per: language`")
        if self.languages and self.shares:
            raise ValueError("with `per: language`, languages and shares are the same; give one of them")
        return self

    @property
    def numbers(self) -> "Keyed":
        return Keyed(self.per, self.shares or self.languages, self.share)

    def text(self) -> str:
        each = f" per {self.per}" if self.per else ""
        named = ", ".join(f"{value} {_percent(share)}" for value, share in self.numbers.values.items())
        return f"lowest {_percent(self.share)} of {self.of}{each}{f' ({named})' if named else ''}"


class Sample(Settings):
    """Keeps documents whose hash, read as a fraction of 1, is under the rate of their value of `by`.

    The hash is the SHA-256 of "<seed>:<id>", so whether a document is kept depends on nothing else in the corpus, and
    what a lower rate keeps, a higher one keeps too. Rates of the report (section 2.2.3) are by category of web site.
    """

    rate: Share
    """Share to keep, of values that are not named and where there is none (null)."""
    by: str | None = Field(None, min_length=1)
    """What rates differ by, such as `site.label`, or any SQL."""
    rates: Mapping[Key, Share] = {}
    """Value of `by`, as text -> rate."""
    seed: int = 1234
    """Rules with equal seeds draw alike: what one keeps at a rate, another keeps at that rate, too."""

    @model_validator(mode="after")
    def _rates_apart(self) -> "Sample":
        _check_keys(self.by, "by", self.rates, "rates")
        return self

    @property
    def numbers(self) -> "Keyed":
        return Keyed(self.by, self.rates, self.rate)

    def text(self) -> str:
        return f"all but a sample of {self.numbers.text(_percent)}, seed {self.seed}"

    def drops(self) -> str:
        """SQL, by the hashes as hex digits."""
        bounds = Keyed(self.by, {value: hash_below(rate) for value, rate in self.rates.items()}, hash_below(self.rate))
        return f"sha256('{self.seed}:' || documents.id) >= {bounds.sql(literal)}"


@dataclass(frozen=True)
class Keyed:
    """A number for each of some values of `by` (SQL; None where there are no values), and one for all others."""

    by: str | None
    values: Mapping[str, Any]
    default: Any

    def sql(self, written: Callable[[Any], str]) -> str:
        """The number as SQL; each as `written` gives it. Null is no value, so it gets the default."""
        other = "NULL" if self.default is None else written(self.default)
        cases = "".join(f" WHEN {literal(value)} THEN {written(number)}" for value, number in self.values.items())
        by = "documents.language" if self.by == _LANGUAGE else f"({self.by})::VARCHAR"
        return f"CASE {by}{cases} ELSE {other} END" if cases else other

    def text(self, written: Callable[[Any], str]) -> str:
        named = ", ".join(f"{value} {written(number)}" for value, number in self.values.items())
        if self.by not in (None, _LANGUAGE):
            named += f" by {self.by}"
        if self.default is None:
            return named
        return f"{written(self.default)} ({named})" if self.values else written(self.default)


def _check_keys(by: str | None, name: str, values: Mapping[str, Any], named: str) -> None:
    if values and by is None:
        raise ValueError(f"{named} needs `{name}`: the column whose values are named")
    if by and not values and name == "by":
        raise ValueError(f"`by` needs {named}: a number for each of some values")
    if by == _LANGUAGE:
        check_languages(values)


class Rule(Settings):
    """Exactly one of `drop`, `below`, `above`, `lowest`, `sample`, `function` says which documents are dropped."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.\- ]+$")
    drop: str | None = Field(None, min_length=1)
    """SQL over documents' columns and `annotation.column`s; drops where it is true."""
    below: Threshold | None = None
    above: Threshold | None = None
    lowest: Lowest | None = None
    sample: Sample | None = None
    function: str | None = Field(None, pattern=f"^{FUNCTION_REFERENCE}$")
    """`module:object`, marked with `@selection_function`; drops where it says true."""
    settings: Mapping[str, Any] = {}
    """The function's."""
    if_annotated: str | None = None
    """An annotation without which the rule is left out. None: the rule always holds, so what it names must be there."""

    @model_validator(mode="after")
    def _one_way(self) -> "Rule":
        ways = ("drop", "below", "above", "lowest", "sample", "function")
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
        if self.lowest or self.sample:
            return (self.lowest or self.sample).text()
        if self.below:
            return self.below.text("<")
        return self.above.text(">") if self.above else self.drop


def rule_of(name: str, text: str) -> dict[str, str]:
    """A rule as a command line gives it: SQL, or `module:function`."""
    return {"name": name, "function" if re.fullmatch(FUNCTION_REFERENCE, text) else "drop": text}


@dataclass(frozen=True)
class Condition:
    """A rule as SQL. `drops` is its condition; of a `lowest`, there are `number`, `per` and `shares` instead.

    `number`: what a threshold or a share looks at, null where a document has none.
    """

    name: str
    text: str
    drops: str | None
    number: str | None = None
    per: str = "0"
    shares: Keyed | None = None

    def queries(self) -> Iterator[str]:
        """Every piece of SQL that the user wrote, as the database is asked for it."""
        if self.drops:
            yield f"({self.drops})::BOOLEAN"
        if self.number:
            yield self.number
        if not self.drops:
            yield f"({self.per})::VARCHAR"

    def words(self) -> set[str]:
        return words_in(self.queries())


def condition(rule: Rule, answers: Mapping[str, str]) -> Condition:
    """A rule as SQL. `answers`: rule -> SQL of what its function said."""
    if rule.function:
        return Condition(rule.name, rule.text(), answers[rule.name])
    if rule.drop:
        return Condition(rule.name, rule.text(), rule.drop)
    if rule.sample:
        return Condition(rule.name, rule.text(), rule.sample.drops())
    judged = rule.below or rule.above or rule.lowest
    number = f"CASE WHEN NOT isnan({judged.of}) THEN {judged.of} END"
    if rule.lowest:
        return Condition(rule.name, rule.text(), None, number, rule.lowest.per or "0", judged.numbers)
    return Condition(
        rule.name, rule.text(), f"{number} {'<' if rule.below else '>'} {judged.numbers.sql(_plain)}", number
    )


def looks_at_others(database: duckdb.DuckDBPyConnection, query: str, annotations: Iterable[str]) -> str | None:
    """What in an SQL expression looks at more than one document: a window, or a subquery over the corpus; or None."""
    ((parsed,),) = database.execute("SELECT json_serialize_sql(?)", [f"SELECT {query}"]).fetchall()
    waiting, tables = [json.loads(parsed)], {"documents", *annotations}
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("class") == "WINDOW":
                return f"{node['function_name']}(...) OVER looks at other documents"
            if node.get("type") == "BASE_TABLE" and node["table_name"].lower() in tables:
                return f"a subquery over {node['table_name']} looks at other documents"
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return None


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
        name="not_searched_for_benchmarks",
        drop="decontamination.failed IS NOT NULL",
        if_annotated="decontamination",
    ),
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
