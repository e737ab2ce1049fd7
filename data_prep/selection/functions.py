"""Selection functions of the user's own: which documents to drop, said by Python instead of SQL.

A function gets documents' columns and annotations' columns, never text: what looks at text is an annotator. What it
says of a document must depend on that document alone, because documents come in batches of any size. Answers are kept
beside the selection, a shard for each documents shard, and are made again only where what they were made from has
changed.
"""

import difflib
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pydantic import ValidationError, create_model
from rich.progress import Progress

from data_prep.annotations import write_table
from data_prep.documents import METADATA_COLUMNS
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.references import import_object, settings_of
from data_prep.settings import Settings, in_words
from data_prep.shards import ShardTask, fingerprint, finished_manifest, run_shards
from data_prep.storage import read_parquet, read_parquet_schema, remove_folder

FORMAT = "data_prep.selection_function/1"
DROP = "drop"  # the column of answers
_BATCH_ROWS = 1024


def selection_function(
    reads: Sequence[str] = ("path", "language", "size_bytes"), version: int | str | None = None
) -> Callable[[Callable], Callable]:
    """Marks `function(documents, setting=default, ...) -> [drop this one?, ...]` for use in a rule.

    `reads`: documents' columns and `annotation.column`s; each document is a dict of these. True drops, False and None
    do not. `version`: raise it when answers change; None: the digest of the file that the function is written in.
    """

    def mark(function: Callable) -> Callable:
        function.selection_function = {"reads": tuple(reads), "version": version}
        return function

    return mark


@dataclass(frozen=True)
class FunctionSpec:
    """Which function, with which settings (JSON of an object), in a form that crosses processes and machines."""

    reference: str
    settings: str = "{}"
    folder: str | None = None
    """Modules are looked for here first."""

    @classmethod
    def of(cls, reference: str, settings: Mapping[str, Any], folder: Path | None) -> "FunctionSpec":
        return cls(reference, json.dumps(settings, sort_keys=True), str(folder) if folder else None)

    def load(self) -> "LoadedFunction":
        """Raises `DataError` for what is not there, is no such function, or has no such setting."""
        function = import_object(self.reference, self.folder)
        about = getattr(function, "selection_function", None)
        if not callable(function) or about is None:
            raise DataError(f"{self.reference} is no selection function: a function with @selection_function")
        for name in about["reads"]:
            if "." not in name and name not in METADATA_COLUMNS:
                known = f"annotation.column, or one of {', '.join(METADATA_COLUMNS)}"
                raise DataError(f"{self.reference} reads {name!r}: {known}; what looks at text is an annotator")
        kind = create_model(function.__name__, __base__=Settings, **settings_of(function))
        try:
            given = kind.model_validate(json.loads(self.settings))
        except ValidationError as error:
            raise DataError(f"{self.reference}: {in_words(error, kind)}") from None
        version = about["version"]
        if version is None:
            version = hashlib.sha256(Path(inspect.getsourcefile(function)).read_bytes()).hexdigest()
        return LoadedFunction(function, dict(given), about["reads"], version)


@dataclass(frozen=True)
class LoadedFunction:
    """A function with all its settings."""

    function: Callable[..., Sequence[bool | None]]
    settings: Mapping[str, Any]
    reads: tuple[str, ...]
    version: int | str

    def annotations(self) -> list[str]:
        return list(dict.fromkeys(name.partition(".")[0] for name in self.reads if "." in name))

    def drops(self, documents: Sequence[Mapping[str, Any]]) -> list[bool | None]:
        answers = list(self.function(documents, **self.settings))
        if len(answers) != len(documents):
            raise ValueError(f"{len(answers)} answers for {len(documents)} documents")
        for answer in answers:
            if answer is not None and not isinstance(answer, bool) and type(answer).__name__ != "bool":
                raise ValueError(f"{answer!r} is neither true nor false nor None")
        return [None if answer is None else bool(answer) for answer in answers]


def answer(
    folder: Path,
    spec: FunctionSpec,
    shards: Sequence[Path],
    annotations: Mapping[str, Sequence[Path]],
    workers: int,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> list[Path]:
    """The answers for every documents shard, below `folder`; makes what is missing. Raises `DataError`."""
    loaded = spec.load()
    identity = [FORMAT, spec.reference, loaded.settings, loaded.version, loaded.reads]
    tasks = []
    for index, shard in enumerate(shards):
        beside = {name: annotations[name][index] for name in loaded.annotations()}
        digests = {name: finished_manifest(path)["sha256"] for name, path in beside.items()}
        inputs = fingerprint(*identity, finished_manifest(shard)["sha256"], digests)
        tasks.append(ShardTask(answers_folder(folder, spec) / shard.name, inputs, answer_shard, (spec, shard, beside)))
    run_shards(tasks, workers, progress, spec.reference, engine)
    return [task.output for task in tasks]


def answers_folder(folder: Path, spec: FunctionSpec) -> Path:
    """Where answers are: other settings have a folder of their own, so that going back costs nothing."""
    return folder / f"{spec.reference.partition(':')[2]}-{fingerprint(spec.reference, spec.settings)[:8]}"


def remove_others(folder: Path, specs: Sequence[FunctionSpec]) -> None:
    """Removes the answers of functions that a selection no longer asks."""
    kept = {answers_folder(folder, spec) for spec in specs}
    for path in folder.glob("*"):
        if path not in kept:
            remove_folder(path)


def answer_shard(stream: BinaryIO, spec: FunctionSpec, shard: Path, annotations: Mapping[str, Path]) -> dict[str, Any]:
    """Shard function: `id` and `drop` for each document of a shard."""
    loaded = spec.load()
    table = _columns(shard, annotations, loaded.reads)
    answers: list[bool | None] = []
    for batch in table.select(loaded.reads).to_batches(_BATCH_ROWS):
        try:
            answers += loaded.drops(batch.to_pylist())
        except Exception as error:  # a document that is not judged would be kept or dropped without a reason
            raise DataError(f"{spec.reference} failed: {type(error).__name__}: {error}") from error
    out = pa.table({"id": table["_id"], DROP: pa.array(answers, pa.bool_())})
    return write_table(stream, out, {"drops": sum(map(bool, answers))})


def _columns(shard: Path, annotations: Mapping[str, Path], reads: Sequence[str]) -> pa.Table:
    """What a function reads of a shard, and `_id`."""
    own = [name for name in reads if "." not in name]
    documents = read_parquet(shard, list(dict.fromkeys(["id", *own])))
    table = documents.select(own).append_column("_id", documents["id"])
    for name, path in annotations.items():
        wanted = [column.partition(".")[2] for column in reads if column.partition(".")[0] == name and "." in column]
        known = read_parquet_schema(path).names
        for column in wanted:
            if column not in known:
                near = difflib.get_close_matches(column, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise DataError(f"annotation {name} has no column {column!r}; {hint}")
        answers = read_parquet(path, wanted)
        for column in wanted:
            table = table.append_column(f"{name}.{column}", answers[column])
    return table.combine_chunks()
