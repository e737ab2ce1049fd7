"""What an oracle run is asked for: which sample, which model, where, and what it may cost."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from data_prep import settings
from data_prep.languages import LANGUAGES
from data_prep.settings import Settings

# Files that the report had scored, by language (Seed-Coder report, appendix A.2): 222,066 in all.
REPORT_COUNTS = {
    "Python": 26_924,
    "Shell": 10_194,
    "Ruby": 10_187,
    "Go": 10_185,
    "TypeScript": 10_179,
    "MATLAB": 10_165,
    "Java": 10_161,
    "C#": 10_112,
    "SQL": 10_110,
    "JavaScript": 10_110,
    "CSS": 10_053,
    "Kotlin": 10_051,
    "PHP": 10_049,
    "C": 10_020,
    "reStructuredText": 9_951,
    "C++": 9_938,
    "HTML": 9_422,
    "R": 9_379,
    "TeX": 9_156,
    "Markdown": 8_845,
    "RMarkdown": 6_875,
}


class SampleSettings(Settings):
    """Which files are rated. The counts are the report's; the other values are ours."""

    counts: dict[str, int] = REPORT_COUNTS
    """Files by language, in proportion to each other: how many there are is scaled to `files`."""
    files: int | None = Field(None, ge=1)
    """How many in all. None: as many as `counts` say, but no more than `max_share` of what there is."""
    max_share: float = Field(0.1, gt=0, le=1)
    seed: int = 1234
    """A document is taken or not by a hash of this and its id."""
    selection: str | None = None
    """Sample what this selection leaves, redacted as it says. None: all that deduplication leaves."""

    @field_validator("counts")
    @classmethod
    def _languages(cls, counts: dict[str, int]) -> dict[str, int]:
        for language, count in counts.items():
            if language not in LANGUAGES:
                near = difflib.get_close_matches(language, LANGUAGES, 1, 0.3)
                raise ValueError(f"{language!r} is none of the 89 languages; did you mean {near or LANGUAGES[:1]}?")
            if count < 0:
                raise ValueError(f"{language}: a count must not be negative")
        if not any(counts.values()):
            raise ValueError("at least one language needs a count above 0")
        return counts


class RequestSettings(Settings):
    """What is asked of the model beside the prompt. All but `max_tokens` is part of the key of an answer."""

    model: str = Field(min_length=1, description="give it in the file, or with --model")
    revision: str | None = None
    """Never sent: tells apart two models that their servers call by one name."""
    temperature: float | None = Field(0.0, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    max_tokens: int = Field(1024, ge=16)
    """Of an answer, thoughts included. Raise it, and ask again, where answers come back truncated."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls it."""
    extra: dict[str, Any] = Field({})
    """Further fields of the request's body, such as `chat_template_kwargs`."""

    def body(self, messages: tuple[dict[str, str], ...]) -> dict[str, Any]:
        """The body of a `/v1/chat/completions` request."""
        optional = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        given = {key: value for key, value in optional.items() if value is not None}
        return {
            **given,
            self.max_tokens_field: self.max_tokens,
            **self.extra,
            "model": self.model,
            "messages": messages,
        }


class EndpointSettings(Settings):
    """Where and how. None of it changes what is asked, so none of it is part of an answer's key."""

    url: str = Field(repr=False, description="give it in the file, or with --url")  # repr: it may hold a key
    """Such as http://127.0.0.1:8000/v1; `/chat/completions` is added."""
    api_key_env: str | None = None
    """The environment variable that holds the key. None: no key is sent."""
    concurrency: int = Field(16, ge=1, le=4096)
    timeout_s: float = Field(180.0, gt=0)
    """For a request, from its start to the end of its answer."""
    connect_timeout_s: float = Field(10.0, gt=0)
    attempts: int = Field(6, ge=1)
    """For each file."""
    backoff_s: float = Field(1.0, ge=0)
    """Longest pause after the first failure; doubled after each. Pauses are random below it."""
    max_backoff_s: float = Field(60.0, ge=0)
    max_retry_after_s: float = Field(600.0, ge=0)
    """A server that asks for a longer pause (Retry-After) is waited for so long only."""

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an http or https address is expected, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address is written into manifests: keys belong into an environment variable")
        return url.rstrip("/").removesuffix("/chat/completions")


class CostSettings(Settings):
    """Prices are for a million tokens, in whatever currency."""

    price_in: float | None = Field(None, ge=0)
    price_out: float | None = Field(None, ge=0)
    max_cost: float | None = Field(None, gt=0)
    """What the answers to this sample may cost in all, those of earlier runs included."""
    tokens_per_byte: float = Field(0.3, gt=0, le=1)
    """Assumed of what is sent, for estimates, where there is no `tokenizer`."""
    tokenizer: Path | None = None
    """Tokenizer folder or tokenizer.json: measures tokens per byte on the first files of the sample."""
    answer_tokens: int = Field(250, ge=1)
    """Assumed of an answer, for estimates."""

    @model_validator(mode="after")
    def _complete(self) -> "CostSettings":
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out belong together")
        if self.max_cost is not None and self.price_in is None:
            raise ValueError("max_cost needs price_in and price_out")
        return self

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost; 0 without prices."""
        return ((self.price_in or 0) * input_tokens + (self.price_out or 0) * output_tokens) / 1e6


class OracleSettings(Settings):
    """A run of `data oracle run`."""

    prompt: str = "code_quality"
    """Name of a shipped prompt, or a YAML file."""
    sample: SampleSettings = SampleSettings()
    request: RequestSettings
    endpoint: EndpointSettings
    cost: CostSettings = CostSettings()
    keep_explanations: bool = False
    """Whether answers are kept whole, beside the scores. Those without a rating always are."""


def load_settings(path: Path | None = None, overrides: Mapping[str, Mapping[str, Any] | Any] = {}) -> OracleSettings:
    """A YAML file, changed by `overrides` (same form; None changes nothing). Raises `DataError` naming the key."""
    return settings.load_settings(OracleSettings, "oracle", path, given(overrides))


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None."""
    found = {key: given(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}
