"""Selection: which documents are trained on, which are held out, and which rule dropped each of the others.

A selection is a query over the documents' metadata and the annotations, never over text, so a threshold is changed
without running anything else again. Rules apply in their order; a document is counted under the first rule that drops
it. A duplicate is dropped even where another rule drops the document it is a duplicate of: a rule on what a file says
judges both alike, a rule on its path or repository may not.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import annotation_names, current_annotation
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.held_out import SPLITS, HeldOut
from data_prep.selection.config import SelectionConfig, load_config
from data_prep.selection.functions import DROP, FunctionSpec, answer, remove_others, selection_function
from data_prep.selection.judge import SECRETS, Questions
from data_prep.selection.places import selection_directory, selection_shard
from data_prep.selection.rules import Condition, Rule
from data_prep.selection.run import Inputs, make_selection
from data_prep.shards import fingerprint, finished_manifest, lock_directory, write_json
from data_prep.storage import as_path, in_words, read_bytes

__all__ = [
    "SPLITS",
    "HeldOut",
    "Rule",
    "SelectionConfig",
    "describe",
    "load_config",
    "read_selection",
    "select",
    "selection_function",
]

_KIND = "data_prep.selection/"
FORMAT = f"{_KIND}2"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def select(
    corpus: Path,
    name: str,
    config: SelectionConfig,
    progress: Progress | None = None,
    workers: int = 1,
    memory_limit: str = "1GB",
    engine: Engine | None = None,
    folder: Path | None = None,
    partitions: int | None = None,
) -> dict[str, Any]:
    """Writes `selections/<name>`: per documents shard (id, split, dropped_by), and `selection.json`, which is returned.

    It says what each rule dropped, in their order and alone, and of which annotations (version, digest) it was made. A
    selection that redacts has a column `redactions` too: what is replaced in a text wherever it is read. Rules whose
    annotation was not made are left out, and named in `rules_left_out`. Functions of rules are imported from `folder`
    first. All steps run on `engine`, or on `workers` processes; those over all documents are cut into `partitions`
    (default: by the number of documents). A task's database takes `memory_limit`. What was asked of single documents is
    kept in the selection's `work`, so that a changed share, or more documents, ask nothing again.

    Does nothing when the selection is up to date. Raises `DataError` for a rule that is no SQL, a function that fails,
    an annotation that is missing or out of date, or when nothing is left to train on or to hold out.
    """
    corpus = as_path(corpus)
    if not _NAME.fullmatch(name):
        raise DataError(f"selection name {name!r}: use letters, digits, '.', '_' and '-' only")
    with lock_directory(corpus):
        before = _stored(corpus, name)
        asked, config = config, config.with_annotations(annotation_names(corpus))
        left_out = [rule.name for rule in asked.rules if rule not in config.rules]
        reads = _gather(corpus, config, left_out, folder)
        if before.get("inputs") == reads.inputs and _complete(corpus, name, before):
            return before
        pinned = before["pinned"] if before and _same_hashes(before, config.held_out) else []
        answers = _ask_functions(corpus, name, reads, workers, progress, engine)
        made = make_selection(
            reads.inputs_of(config, name, answers, memory_limit),
            selection_directory(corpus, name),
            pinned,
            workers,
            partitions,
            engine,
            progress,
        )
        selection = {
            "format": FORMAT,
            "name": name,
            "config": config.model_dump(mode="json"),
            "rules_left_out": left_out,
            "inputs": reads.inputs,
            "corpus_fingerprint": reads.corpus_fingerprint,
            "annotations": reads.lineage,
            "functions": {rule: spec.load().version for rule, spec in reads.functions.items()},
            "pinned": made.pinned,
            **made.waterfall,
            "digest": _digest(made.outputs),
        }
        write_json(_path(corpus, name), selection)
        return selection


def read_selection(corpus: Path, name: str) -> dict[str, Any]:
    """A selection's `selection.json`. Raises `DataError` where it is missing, unfinished or of other documents."""
    corpus = as_path(corpus)
    selection = _stored(corpus, name)
    if not selection:
        raise DataError(f"{corpus}: there is no selection {name!r}; make it with `data select`")
    current = selection["format"] == FORMAT and selection["corpus_fingerprint"] == corpus_fingerprint(corpus)
    if not current or not _complete(corpus, name, selection):
        raise DataError(f"{corpus}: selection {name!r} is unfinished or older than the documents; run `data select`")
    return selection


def describe(selection: dict[str, Any]) -> list[str]:
    """A selection as lines to print: what is left, and what each rule dropped."""
    left = selection["left"]
    lines = [
        f"selection {selection['name']}: {left['train']['documents']:,} documents to train on, "
        f"{left['held_out']['documents']:,} held out, of {selection['documents_in']['documents']:,}"
    ]
    for step in selection["dropped"]:
        line = f"  {step['rule']} dropped {step['documents']:,} ({step['size_bytes'] / 1e6:,.2f} MB)"
        if step["alone"]:
            line += f", alone {step['alone']['documents']:,}"
        if step.get("without"):
            line += f"; {step['without']:,} have no number to judge by"
        lines.append(line)
    if selection["rules_left_out"]:
        lines.append(f"  left out, since nothing was annotated for them: {', '.join(selection['rules_left_out'])}")
    return lines


def _same_hashes(selection: dict[str, Any], held_out: HeldOut) -> bool:
    stored = selection["config"]["held_out"]
    return (stored["seed"], stored["fraction"]) == (held_out.seed, held_out.fraction)


def _path(corpus: Path, name: str) -> Path:
    return selection_directory(corpus, name) / "selection.json"


def _functions_folder(corpus: Path, name: str) -> Path:
    return selection_directory(corpus, name) / "functions"


def _stored(corpus: Path, name: str) -> dict[str, Any]:
    """`selection.json`, or {} where there is none. Raises `DataError` where it cannot be read: it says which
    repositories stay held out."""
    path = _path(corpus, name)
    try:
        stored = json.loads(read_bytes(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({in_words(error)}): try again, or restore it; without it, what was held out may "
            "be trained on"
        ) from None
    return stored if isinstance(stored, dict) and str(stored.get("format")).startswith(_KIND) else {}


def _complete(corpus: Path, name: str, selection: dict[str, Any]) -> bool:
    outputs = [selection_shard(corpus, name, shard) for shard in list_shards(corpus)]
    return all(finished_manifest(output) for output in outputs) and _digest(outputs) == selection["digest"]


def _digest(outputs: list[Path]) -> str:
    return fingerprint([(output.name, finished_manifest(output)["sha256"]) for output in outputs])


@dataclass(frozen=True)
class _Reads:
    """What a selection is made from."""

    shards: list[Path]
    conditions: list[Condition]
    functions: dict[str, FunctionSpec]  # rule -> its function
    annotations: dict[str, list[Path]]  # annotator -> shards; those that a rule names
    lineage: dict[str, dict[str, Any]]  # annotator -> what made it
    corpus_fingerprint: str
    inputs: str

    def inputs_of(
        self, config: SelectionConfig, name: str, answers: Mapping[str, list[Path]], memory_limit: str
    ) -> Inputs:
        questions = Questions(name, tuple(self.conditions), tuple(self.annotations), config.redact, memory_limit)
        return Inputs(self.shards, {**self.annotations, **answers}, questions, config)


def _gather(corpus: Path, config: SelectionConfig, left_out: list[str], folder: Path | None) -> _Reads:
    whole = corpus_fingerprint(corpus)
    functions = {
        rule.name: FunctionSpec.of(rule.function, rule.settings, folder) for rule in config.rules if rule.function
    }
    loaded = {rule: spec.load() for rule, spec in functions.items()}
    conditions = config.conditions({rule: f'"{view}"."{DROP}"' for rule, view in _views(functions).items()})
    present = annotation_names(corpus)
    words = {word for condition in conditions for word in condition.words()}
    for rule, function in loaded.items():
        words |= set(function.annotations())
        if lacking := [name for name in function.annotations() if name not in present]:
            raise DataError(f"{corpus}: rule {rule!r} reads the annotation {lacking[0]}, which was not made")
    needed = config.annotations()
    found = {name: current_annotation(corpus, name, whole) for name in present if name in words or name in needed}
    lineage = {name: _lineage(name, [manifest for _, manifest in pairs]) for name, pairs in found.items()}
    asked = [[function.version, function.settings, function.reads] for function in loaded.values()]
    inputs = fingerprint(FORMAT, whole, lineage, config.model_dump(mode="json"), left_out, asked)
    annotations = {name: [path for path, _ in pairs] for name, pairs in found.items()}
    if config.redact and SECRETS not in annotations:
        raise DataError(f"{corpus}: redact needs the annotation {SECRETS}; run `data annotate {SECRETS}` first")
    return _Reads(list_shards(corpus), conditions, functions, annotations, lineage, whole, inputs)


def _lineage(name: str, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What made an annotation, and its digest."""
    first = manifests[0] if manifests else {}
    about = first.get("annotator") or {"name": name, "run": first.get("run")}
    return {**about, "digest": fingerprint([manifest["sha256"] for manifest in manifests])}


def _views(functions: Mapping[str, FunctionSpec]) -> dict[str, str]:
    return {rule: f"_answers_{index}" for index, rule in enumerate(functions)}


def _ask_functions(
    corpus: Path, name: str, reads: _Reads, workers: int, progress: Progress | None, engine: Engine | None
) -> dict[str, list[Path]]:
    """View -> shards of answers, of every function."""
    place = _functions_folder(corpus, name)
    remove_others(place, list(reads.functions.values()))
    found = {}
    for rule, view in _views(reads.functions).items():
        spec = reads.functions[rule]
        try:
            found[view] = answer(place, spec, reads.shards, reads.annotations, workers, progress, engine)
        except DataError as error:
            raise DataError(f"selection {name!r}, rule {rule!r}: {error}") from None
    return found
