"""What a run over web archives is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from data_prep.settings import Settings, load_settings

# Laid out as it stands by a style sheet: Doxygen, GitHub; and what HTML had before `pre`.
PREFORMATTED = ("div.fragment", "td.blob-code", "xmp")
# Line numbers, links to a heading itself, buttons that copy: Pygments, Doxygen, Rouge, highlight.js, GitHub, Sphinx...
SKIPPED = (
    "td.linenos", ".linenodiv", "span.linenos", "span.lineno", "pre.lineno", "pre.lineNumber", ".gutter",
    ".rouge-gutter", ".hljs-ln-numbers", ".blob-num", ".line-numbers-rows", ".src-line-numbers", "a.headerlink",
    "a.anchorjs-link", "a.anchor", "button", "div.ttc",
)  # fmt: skip


class RecordSettings(Settings):
    """Which records are taken. The values are ours."""

    max_html_bytes: int = Field(4 << 20, ge=1)
    """Of a page, decoded. Longer ones are dropped."""
    max_ratio: float = Field(200.0, ge=1)
    """Of decoded to sent bytes; a page of more than 1 MiB that passes it is dropped as a bomb."""
    max_url_bytes: int = Field(2048, ge=8)
    timeout_s: float = Field(20.0, gt=0)
    """Wall-clock time for a page; one that takes longer is dropped."""
    memory_bytes: int = Field(4 << 30, ge=512 << 20)
    """Address space of the process that reads pages; one that needs more is dropped."""


class ExtractionSettings(Settings):
    """How text is taken out of HTML. The values are ours."""

    main_content: bool = True
    """Leave out what is around the content (menus, footers): all but its `main` element, or what resiliparse finds."""
    min_code_kept: float = Field(0.9, ge=0, le=1)
    """Where resiliparse leaves less of a page's code blocks, all but its header, footer and menus is taken."""
    max_depth: int = Field(512, ge=16)
    """Pages with elements nested deeper are dropped; browsers stop there, too."""
    min_decoded: float = Field(0.99, ge=0, le=1)
    """Share of characters that must be decodable in a page's encoding."""
    preformatted: tuple[str, ...] = PREFORMATTED
    """CSS selectors of elements whose white space counts, besides `pre`."""
    skip: tuple[str, ...] = SKIPPED
    """CSS selectors of elements that are left out."""


class WebConfig(Settings):
    records: RecordSettings = RecordSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    part_bytes: int = Field(1 << 30, ge=1 << 10)
    """Of a WARC file, as it lies there: what is read, retried and skipped together."""
    shard_bytes: int = Field(64 << 20, ge=1)
    """Text in a documents shard."""
    examples: int = Field(5, ge=0)
    """Kept for each reason to drop."""


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> WebConfig:
    """The defaults, changed by a YAML file, then by `overrides`, whose sections are merged.

    Raises `DataError` naming the key that is wrong.
    """
    return load_settings(WebConfig, "web", path, overrides)
