"""The annotation `quality`, or of another name: what a scorer says of every file, one number from 0 to 10.

The scorer is a folder made by `data score train`, or a function of the user's, `module:function`, that is given a list
of documents (`text`, `language`, `path`) and returns a number or None for each.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, computed_field

from data_prep.annotations import refuse_others
from data_prep.annotators.base import Annotator, AnnotatorSpec, NamedSpec, check_name
from data_prep.errors import DataError
from data_prep.references import import_object
from data_prep.scorer.base import Scorer, open_scorer, scorer_digest

QUALITY = "quality"
MADE_BY = "score"


class Quality(Annotator):
    """Scores by a scorer. Its digest, not its place, decides whether scores are out of date."""

    scorer: str = Field(exclude=True)
    """Folder of a scorer, or module:function."""
    module_folder: str | None = Field(None, exclude=True)
    """Where the module is looked for first; default: the working directory."""

    version = 1
    columns: ClassVar = {"score": pa.float32()}

    @computed_field
    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the scorer's files, or of the file that the function is written in."""
        if _is_function(self.scorer):
            path = inspect.getsourcefile(self._function)
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return scorer_digest(Path(self.scorer))

    def prepare(self) -> None:
        _ = self._score

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        scores = list(self._score(documents))
        if len(scores) != len(documents):
            raise DataError(f"scorer {self.scorer}: {len(scores)} scores for {len(documents)} documents")
        return {"score": [None if score is None else _checked(self.scorer, float(score)) for score in scores]}

    @functools.cached_property
    def _score(self) -> Callable[[Sequence[Mapping[str, Any]]], Sequence[float | None] | np.ndarray]:
        if _is_function(self.scorer):
            return self._function
        scorer: Scorer = open_scorer(Path(self.scorer))
        return scorer.score

    @functools.cached_property
    def _function(self) -> Callable[..., Any]:
        function = import_object(self.scorer, self.module_folder or str(Path.cwd()))
        if not inspect.isfunction(function):
            raise DataError(f"scorer {self.scorer} is no function: it must take documents and return scores")
        return function


class NamedQuality(Quality):
    """Scores beside those of another scorer; the settings say who made them, so that no other annotation is lost."""

    @computed_field
    @property
    def made_by(self) -> str:
        return MADE_BY


def quality_spec(corpus: Path, name: str = QUALITY, **settings: Any) -> AnnotatorSpec:
    """A scorer's annotator, whose annotation is called `name`; `settings` are the annotator's.

    Raises `DataError` where another step made an annotation of this name.
    """
    if name == QUALITY:
        return AnnotatorSpec.of(QUALITY, **settings)
    refuse_others(corpus, name, MADE_BY)
    check_name(name, "--annotation")
    given = AnnotatorSpec.of(f"{__name__}:{NamedQuality.__name__}", **settings)
    return NamedSpec(given.reference, given.settings, None, name)


def _is_function(scorer: str) -> bool:
    module, colon, name = scorer.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _checked(scorer: str, score: float) -> float:
    if not 0 <= score <= 10:
        raise DataError(f"scorer {scorer}: score {score:g} is not between 0 and 10")
    return score
