"""What a needle data set is asked for."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_prep.needle.templates import TEMPLATES
from data_prep.repositories.settings import check_header
from data_prep.settings import Settings


class NeedleSettings(Settings):
    """The grid, and what contexts are made of. Lengths up to 32K and depths from 0 to 100 % are the report's (section
    5); the rest is ours."""

    lengths: tuple[int, ...] = Field((4096, 8192, 16384, 32768), min_length=1)
    """Tokens of prompt and answer together."""
    depths: tuple[float, ...] = Field((0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), min_length=1)
    """Where the needle stands: percent of the code's tokens that come before it."""
    samples: int = Field(5, ge=1)
    """Of each length and depth."""
    answer_tokens: int = Field(16, ge=1)
    """Kept free behind the prompt."""
    languages: tuple[str, ...] | None = None
    """Of the code; default: all in which a needle can be written."""
    split: Literal["train", "held_out"] = "held_out"
    """Side of the selection that the code comes from."""
    header: str = "file: {repository}/{path}"
    """Stands before each file, as a comment of its language; {path}, {repository} and {language} are filled in."""
    min_file_bytes: int = Field(256, ge=1)
    max_file_bytes: int = Field(65536, ge=1)
    """Larger files are left out, so that a context is of several."""
    max_line_characters: int = Field(500, ge=1)
    """Files with a longer line are left out: the needle stands between lines."""
    pool_bytes: int = Field(64 << 20, ge=1)
    """Of code that all contexts are drawn from, at most."""
    seed: int = Field(1234, ge=0)

    @field_validator("lengths", "depths")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("each of them once")
        return values

    @field_validator("languages")
    @classmethod
    def _can_be_written(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = sorted(set(languages or ()) - set(TEMPLATES))
        if unknown:
            raise ValueError(f"no needle is known for {', '.join(unknown)}; there are {', '.join(TEMPLATES)}")
        return languages

    @field_validator("header")
    @classmethod
    def _fills_in(cls, header: str) -> str:
        return check_header(header)

    @model_validator(mode="after")
    def _grid_is_sound(self) -> "NeedleSettings":
        if not all(0 <= depth <= 100 for depth in self.depths):
            raise ValueError("depths are percent, from 0 to 100")
        if min(self.lengths) < 256 + self.answer_tokens:
            raise ValueError(f"lengths must be at least {256 + self.answer_tokens}: 256 tokens and the answer")
        return self
