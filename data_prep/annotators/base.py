"""What an annotator is, and how one is found by name.

An annotator says something about documents, one at a time: what it says of a document must depend on that document
alone, because documents come in batches of any size and are done again after a crash. Built-in ones and a user's own
are the same thing: a class below `Annotator` whose fields are its settings, or a function marked with `@annotator`.
"""

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from data_prep.annotations import StepAnnotation
from data_prep.documents import SCHEMA
from data_prep.errors import DataError
from data_prep.references import import_object, settings_of
from data_prep.settings import in_words
from data_prep.shards import fingerprint

BUILT_IN = {
    "syntax": "data_prep.annotators.syntax:Syntax",
    "signs": "data_prep.annotators.signs:Signs",
    "licence": "data_prep.annotators.licence:Licence",
    "secrets": "data_prep.annotators.secrets:Secrets",
    "decontamination": "data_prep.annotators.decontamination:Decontamination",
    "page": "data_prep.annotators.page:Page",
    "blocklist": "data_prep.annotators.blocklist:Blocklist",
    "quality": "data_prep.scorer.quality:Quality",
    "imports": "data_prep.repositories.imports:Imports",
    "structure": "data_prep.annotators.structure:Structure",
}
# What other steps make; and what a rule of a selection could not tell from a document's own columns.
_TAKEN_NAMES = frozenset({*BUILT_IN, *StepAnnotation, "documents", *SCHEMA.names})
_TAKEN_COLUMNS = frozenset({"failed", *SCHEMA.names})


class Annotator(BaseModel):
    """Settings are the fields of the class, each with a default or given with `--set`; frozen, no others allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: ClassVar[Mapping[str, pa.DataType | str]] = {}
    """What it writes: column -> type (pyarrow's, or its name such as "int32", "bool", "string")."""
    version: ClassVar[int | str | None] = None
    """Raise it when answers change. None: the digest of the file that the annotator is written in."""
    reads: ClassVar[tuple[str, ...]] = ("text", "language", "path")
    """The documents' columns that it is given."""

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        """A value for each document and column; each document a dict of what `reads` names. None is always allowed."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What is done once, in the process that annotates and before its first document: loading a model, an index."""

    def inputs(self) -> Any:
        """What the answers depend on besides version and settings (such as a file's digest), as JSON-able values."""
        return None


def annotator(
    columns: Mapping[str, pa.DataType | str], version: int | str | None = None, reads: Sequence[str] = Annotator.reads
) -> Callable[[Callable], Callable]:
    """Marks `function(documents, setting=default, ...) -> {column: values}` as an annotator."""

    def mark(function: Callable) -> Callable:
        function.annotator = {"columns": dict(columns), "version": version, "reads": tuple(reads)}
        return function

    return mark


def check_name(name: str, whose: str) -> None:
    """Raises `DataError`, which begins with `whose`, where no annotation of a user's can have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _TAKEN_NAMES:
        raise DataError(
            f"{whose}: an annotation cannot be called {name!r}: small letters, digits and '_' are expected, and "
            "neither a column of documents nor what another step makes"
        )


@dataclass(frozen=True)
class AnnotatorSpec:
    """Which annotator, with which settings, in a form that crosses processes and machines.

    `reference`: a built-in's name, or `module:object` of a class or a marked function; modules are looked for in
    `folder` first. `settings`: JSON of an object.
    """

    reference: str
    settings: str = "{}"
    folder: str | None = None

    @classmethod
    def of(cls, reference: str, folder: Path | None = None, **settings: Any) -> "AnnotatorSpec":
        return cls(
            reference, json.dumps(settings, sort_keys=True), str(folder) if folder and ":" in reference else None
        )

    @property
    def name(self) -> str:
        """Name of the annotation: the built-in's, or that of the object in snake case."""
        if self.reference in BUILT_IN:
            return self.reference
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.reference.rpartition(":")[2]).lower()

    def load(self) -> Annotator:
        """The annotator itself. Raises `DataError` for what is not there, is none, or has no such setting."""
        found = _imported(BUILT_IN.get(self.reference, self.reference), self.folder)
        if callable(found) and hasattr(found, "annotator"):
            found = _of_function(found)
        if not (isinstance(found, type) and issubclass(found, Annotator)):
            raise DataError(f"{self.reference} is no annotator: a class below Annotator or a function with @annotator")
        self._check(found)
        try:
            return found.model_validate(json.loads(self.settings))
        except ValidationError as error:
            raise DataError(f"annotator {self.name}: {in_words(error, found)}") from None

    def _check(self, found: type[Annotator]) -> None:
        if self.reference not in BUILT_IN:
            check_name(self.name, self.reference)
        if not found.columns or _TAKEN_COLUMNS & set(found.columns):
            taken = ", ".join(sorted(_TAKEN_COLUMNS & set(found.columns))) or "none"
            raise DataError(f"{self.reference}: columns must be named, and other than documents' own (found {taken})")
        if unknown := [name for name in found.reads if name not in SCHEMA.names]:
            raise DataError(f"{self.reference}: reads {unknown[0]!r}; documents have {', '.join(SCHEMA.names)}")
        schema_of(found)


@dataclass(frozen=True)
class NamedSpec(AnnotatorSpec):
    """An annotator whose annotation has a name of the user's."""

    annotation: str = ""

    @property
    def name(self) -> str:
        return self.annotation


def specs_of(names: Sequence[str], settings: Sequence[tuple[str, str]], folder: Path) -> list[AnnotatorSpec]:
    """Annotators as a command line names them; `settings`: (key or name.key, value in YAML), modules are in `folder`.

    Raises `DataError` for a setting that is nobody's.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, text in settings:
        owner, dot, setting = key.rpartition(".")
        wanted = [name for name in names if not dot or owner in (name, AnnotatorSpec.of(name).name)]
        if len(wanted) != 1:
            which = f"{key!r}: name the annotator, as in {names[0]}.{key}" if not dot else f"{owner!r} is not annotated"
            raise DataError(f"setting {which} (annotators: {', '.join(names)})")
        try:
            given[wanted[0]][setting] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise DataError(f"setting {key}={text!r}: the value is no YAML") from None
    return [AnnotatorSpec.of(name, folder, **values) for name, values in given.items()]


def schema_of(annotator: Annotator | type[Annotator]) -> pa.Schema:
    """The annotator's columns as pyarrow has them."""
    types = {}
    for name, kind in annotator.columns.items():
        try:
            types[name] = kind if isinstance(kind, pa.DataType) else pa.type_for_alias(kind)
        except ValueError:
            raise DataError(f"column {name}: {kind!r} is no type that pyarrow knows, such as 'int32'") from None
    return pa.schema(types)


def fingerprint_of(spec: AnnotatorSpec, annotator: Annotator) -> str:
    """Changes whenever the annotator's answers may: name, version or source, settings, columns, inputs."""
    columns = {field.name: str(field.type) for field in schema_of(annotator)}
    settings = annotator.model_dump(mode="json")
    return fingerprint(spec.name, version_of(annotator), settings, columns, list(annotator.reads), annotator.inputs())


def version_of(annotator: Annotator) -> int | str:
    if annotator.version is not None:
        return annotator.version
    return hashlib.sha256(Path(inspect.getsourcefile(type(annotator))).read_bytes()).hexdigest()


def _imported(reference: str, folder: str | None) -> Any:
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        near = difflib.get_close_matches(reference, BUILT_IN, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f": one of {', '.join(BUILT_IN)}, or module:object"
        raise DataError(f"there is no annotator {reference!r}{hint}")
    return import_object(reference, folder)


def _of_function(function: Callable) -> type[Annotator]:
    """A class whose settings are the function's parameters after the first."""
    fields = settings_of(function)
    made = create_model(function.__name__, __base__=Annotator, __module__=function.__module__, **fields)
    for name, value in function.annotator.items():
        setattr(made, name, value)
    made.annotate = lambda self, documents: function(documents, **{name: getattr(self, name) for name in fields})
    return made
