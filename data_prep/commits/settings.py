"""What a commits run is asked for: which repositories, which commits, what a sample holds."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from data_prep.settings import Settings, load_settings

BOTS = (
    r"\[bot\]",
    r"\bbot@",
    r"^[\w.-]*[-_ ]bot\b",
    r"^(dependabot|renovate|greenkeeper|pyup|snyk|imgbot|codecov|bors|mergify|github-actions|allcontributors)\b",
)


class RepositorySettings(Settings):
    """Which repositories are taken (Seed-Coder report, section 2.2.2: these four, with these values)."""

    min_stars: int = Field(100, ge=0)
    min_forks: int = Field(10, ge=0)
    min_commits: int = Field(100, ge=0)
    """Reachable from HEAD, merges included."""
    min_days: int = Field(100, ge=0)
    """From the first to the last commit reachable from HEAD."""


class CommitSettings(Settings):
    """Which commits are taken; the values are ours. Merges and commits without a parent never are."""

    max_files: int = Field(50, ge=1)
    """A commit that changes more files is dropped."""
    max_file_bytes: int = Field(1 << 20, ge=1)
    """A changed file that is larger before or after is left out of the target."""
    keep_bots: bool = False
    bots: tuple[str, ...] = BOTS
    """Regular expressions for `name <email>` of an author that is a program; case does not count."""

    @field_validator("bots")
    @classmethod
    def _compile(cls, bots: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in bots:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return bots


class SampleSettings(Settings):
    """What a sample holds. README, tree and five files are the report's; the numbers of tokens are ours."""

    max_tokens: int = Field(8192, ge=64)
    """Of a whole sample."""
    message_tokens: int = Field(1024, ge=1)
    readme_tokens: int = Field(1024, ge=0)
    tree_tokens: int = Field(1024, ge=0)
    tree_entries: int = Field(200, ge=0)
    files: int = Field(5, ge=0)
    """Files of the snapshot that BM25 finds most relevant to the message. 0: none, and no index."""
    file_tokens: int = Field(2048, ge=1)
    """Of each of them."""
    ranked_file_bytes: int = Field(256 << 10, ge=1)
    """Larger files are not ranked."""
    format: Literal["unified_diff", "search_replace"] = "unified_diff"
    context_lines: int = Field(3, ge=0)
    """Of a unified diff."""
    markers: Literal["text", "special"] = "text"
    """What a build makes of the headings between parts: text, or special tokens, which its tokenizer must have."""
    bytes_per_token: float = Field(3.3, gt=0)
    """By which tokens are estimated, where there is no tokenizer to count them with."""
    tokenizer: str | None = None
    """Tokenizer folder or tokenizer.json."""


class CommitsConfig(Settings):
    repositories: RepositorySettings = RepositorySettings()
    commits: CommitSettings = CommitSettings()
    sample: SampleSettings = SampleSettings()
    shard_commits: int = Field(500, ge=1)
    """Commits of one repository that are made, retried and skipped together."""
    examples: int = Field(5, ge=0)
    """Kept for each reason to drop."""


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> CommitsConfig:
    """The defaults, changed by a YAML file, then by `overrides`, whose sections are merged.

    Raises `DataError` naming the key that is wrong.
    """
    return load_settings(CommitsConfig, "commits", path, overrides)
