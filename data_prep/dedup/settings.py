"""What near deduplication is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_prep import settings
from data_prep.settings import Settings


class NearSettings(Settings):
    """256 permutations over word 5-grams are the report's (section 2.2.1); the other values are ours."""

    permutations: int = Field(256, ge=8, le=4096)
    """Of MinHash; the bands share them out."""
    ngram_words: int = Field(5, ge=1, le=64)
    """A file is the set of its n-grams of this many words."""
    threshold: float = Field(0.7, gt=0, le=1)
    """Files of at least this Jaccard similarity are near duplicates."""
    recall: float = Field(0.99, gt=0, lt=1)
    """Bands are chosen so that a pair of files at the threshold is found with at least this probability."""
    repository_threshold: float = Field(0.7, gt=0, le=1)
    """Repositories whose sets of files have at least this Jaccard similarity are near duplicates."""
    repository_recall: float = Field(0.99999, gt=0, lt=1)
    """The same as `recall`, for repositories: they are few, so more candidates cost nothing."""
    neighbours: int = Field(16, ge=1, le=1024)
    """Where more sets than this share a band, each is compared with this many that come after it."""
    estimate_deviations: float = Field(5.0, ge=0)
    """A candidate whose sketches say that it is this many standard deviations under the threshold is left unread."""
    seed: int = Field(1, ge=0, lt=1 << 32)
    """Of the permutations."""
    text: Literal["all", "target"] | None = None
    """What of a document is compared. None: its target where the annotation `commits` says where that begins, else all
    of it."""


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> NearSettings:
    """The defaults, changed by a YAML file, then by `overrides`. Raises `DataError` naming the key that is wrong."""
    return settings.load_settings(NearSettings, "near deduplication", path, overrides)
