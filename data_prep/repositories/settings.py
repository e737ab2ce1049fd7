"""What repository-level strings are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from data_prep import settings
from data_prep.settings import Settings


def check_header(header: str) -> str:
    """`header`. Raises `ValueError` where it asks for what is not known of a file."""
    try:
        header.format(path="", repository="", language="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError("only {path}, {repository} and {language} can be filled in") from None
    return header


class RepositorySettings(Settings):
    """Which repositories become strings, how long these may be, and how they say where a file begins.

    That repositories are chosen by the mean score of their files is the report's (section 2.2.5); the values are ours.
    """

    split: Literal["train", "held_out"] = "train"
    """Side of the selection that files are taken from."""
    score: str = Field("quality.score", pattern=r"^[a-z][a-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$")
    """annotation.column: the score of a file."""
    min_mean_score: float | None = None
    """Repositories whose files have a lower mean are left out, and so are those without any score. None: no matter."""
    min_files: int = Field(2, ge=1)
    """Repositories with fewer files in the selection are left out."""
    min_tokens: int = Field(8192, ge=0)
    """And so are those with less text: 8,192 tokens is the context of regular pretraining."""
    max_tokens: int = Field(1_048_576, ge=256)
    """Longer repositories are cut into subgraphs; a single file that is longer stays whole. 32 contexts of 32,768."""
    bytes_per_token: float = Field(3.36, gt=0)
    """Of text, where no tokenizer counts."""
    header: str = "file: {path}"
    """Stands before each file, as a comment of its language; {path}, {repository} and {language} are filled in."""
    comment: bool = True
    """Whether the header is put into a comment; without, it stands as it is."""
    seed: int = Field(1234, ge=0)
    """Of the order wherever dependencies do not decide."""

    @field_validator("header")
    @classmethod
    def _fills_in(cls, header: str) -> str:
        return check_header(header)

    def min_bytes(self) -> int:
        return int(self.min_tokens * self.bytes_per_token)


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> RepositorySettings:
    """The defaults, changed by a YAML file, then by `overrides`. Raises `DataError` naming the key that is wrong."""
    return settings.load_settings(RepositorySettings, "repositories", path, overrides)
