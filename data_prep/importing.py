"""Sources to documents: plan units of work, import the missing and the stale ones, report what was dropped.

A corpus keeps, for each unit, a ledger `imports/<unit>.ledger` (JSON: what it took and dropped, and which documents
shards it wrote). `imports/<source>.plan.json` is written once all ledgers of a source are there, `import.json` last;
both are removed before anything changes. A source with ledgers and no plan was not imported to the end, and while
`import.json` is missing the corpus is not complete.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import Progress

from data_prep.documents import Document, DocumentWriter, documents_directory
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.languages import RULES_VERSION
from data_prep.shards import (
    ShardTask,
    fingerprint,
    finished_manifests,
    lock_directory,
    remove_shard,
    run_shards,
    write_json,
    write_shard,
)
from data_prep.sources.base import REASONS, UNREADABLE, Budget, Drops, ImportLimits, SourceSpec, Unit, group_units
from data_prep.sources.plan import check_sources, plan_source
from data_prep.storage import as_path, each, remove_file

__all__ = [
    "ImportLimits",
    "ImportReport",
    "SourcePlan",
    "SourceSpec",
    "bring_up_to_date",
    "import_documents",
    "known_sources",
]

FORMAT = "data_prep.documents/3"


@dataclass
class ImportReport:
    """What a corpus holds after an import, over all its sources.

    `drops`: reason -> count, size_bytes, examples. `sources`: name -> documents, text_bytes, drops.
    `languages`: language -> documents, text_bytes. `units_made` of `units` were imported by this run, the others were
    up to date.
    """

    documents: int = 0
    text_bytes: int = 0
    shards: int = 0
    units: int = 0
    units_made: int = 0
    drops: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    languages: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourcePlan:
    """What is to be made of a source, and what was dropped before anything was."""

    tasks: Sequence[ShardTask]
    drops: Drops


def import_documents(
    sources: Sequence[SourceSpec],
    corpus: Path,
    limits: ImportLimits,
    workers: int,
    progress: Progress | None = None,
    engine: Engine | None = None,
    remove: Sequence[str] = (),
) -> ImportReport:
    """Brings `corpus` up to date with `sources`; sources that are not named now stay as they are, unless in `remove`.

    Only what is missing or has changed is imported. The documents' bytes do not depend on `workers`. Raises `DataError`
    when a whole source cannot be read or nothing is left.
    """
    corpus = as_path(corpus)
    if sources or not remove:
        check_sources(sources)
    with lock_directory(corpus):
        budget = Budget(limits.max_total_bytes)
        plans = {}
        for spec in sources:
            units, drops = _plan(spec, limits, budget)
            plans[spec.name] = SourcePlan([_task(corpus, unit, limits) for unit in units], drops)
        return bring_up_to_date(corpus, plans, limits.examples, workers, progress, engine, remove)


def bring_up_to_date(
    corpus: Path,
    plans: Mapping[str, SourcePlan],
    examples: int,
    workers: int,
    progress: Progress | None = None,
    engine: Engine | None = None,
    remove: Sequence[str] = (),
    reasons: Mapping[str, str] = REASONS,
) -> ImportReport:
    """Makes the ledgers of `plans` (source -> plan) that are missing, and `import.json`; the corpus is locked already.

    Each task's output is a ledger `imports/<unit>.ledger`: JSON with `source`, `documents`, `text_bytes`, `languages`,
    `drops` and `shards`. `reasons` says what reasons to drop mean. Raises `DataError` when nothing is left, or another
    source was not imported to the end.
    """
    there = _ledgers_and_plans(corpus)
    _check_others(corpus, there, plans, remove)
    tasks = [task for plan in plans.values() for task in plan.tasks]
    to_make = {name: _count_missing(plan.tasks) for name, plan in plans.items()}
    current = {task.output for task in tasks} | {_plan_path(corpus, name) for name in plans}
    obsolete = [path for path, source in there.items() if source in {*plans, *remove} and path not in current]
    changing = {name for name, count in to_make.items() if count} | {there[path] for path in obsolete}
    if changing:
        remove_file(corpus / "import.json")
    for name in sorted(changing):
        remove_file(_plan_path(corpus, name))
    run_shards(tasks, workers, progress, "import", engine)
    _remove(corpus, obsolete)
    for name, plan in plans.items():
        _write_if_changed(_plan_path(corpus, name), {"source": name, "drops": plan.drops.by_reason})
    report = _report(corpus, examples)
    _check(report, list(plans), reasons)
    stored = {key: value for key, value in asdict(report).items() if key != "units_made"}
    _write_if_changed(corpus / "import.json", {"format": FORMAT, **stored})
    return replace(report, units_made=sum(to_make.values()))


def known_sources(corpus: Path) -> list[str]:
    """Names of the sources of which a corpus holds anything, imported to the end or not."""
    return sorted(set(_ledgers_and_plans(corpus).values()))


def _ledgers_and_plans(corpus: Path) -> dict[Path, str]:
    """Every ledger and plan of a corpus, with its source."""
    found = [*(corpus / "imports").glob("*.ledger"), *(corpus / "imports").glob("*.plan.json")]
    sources = each(lambda path: _read(path)["source"], found, corpus)
    return dict(zip(found, sources, strict=True))


def _check_others(corpus: Path, there: Mapping[Path, str], planned: Iterable[str], remove: Sequence[str]) -> None:
    """Raises `DataError` where a source to remove is not there, or one that stays is not there as a whole."""
    known = sorted(set(there.values()))
    for name in remove:
        if name not in known:
            raise DataError(f"{corpus} has no source {name!r} to remove; it has {', '.join(known) or 'none'}")
    for name in known:
        if name not in {*planned, *remove} and _plan_path(corpus, name) not in there:
            raise DataError(
                f"{corpus}: source {name} was not imported to the end: name it again, or take it out with --remove"
            )


def _count_missing(tasks: Sequence[ShardTask]) -> int:
    manifests = finished_manifests([task.output for task in tasks], [task.inputs for task in tasks])
    return manifests.count(None)


def _plan(spec: SourceSpec, limits: ImportLimits, budget: Budget) -> tuple[list[Unit], Drops]:
    drops = Drops(limits.examples)
    pieces = plan_source(spec, limits, budget, drops)
    return list(group_units(spec.name, pieces, limits.shard_bytes)), drops


def _task(corpus: Path, unit: Unit, limits: ImportLimits) -> ShardTask:
    inputs = fingerprint(FORMAT, RULES_VERSION, limits.taking(), unit.inputs())
    ledger = corpus / "imports" / f"{unit.name}.ledger"
    return ShardTask(ledger, inputs, import_unit, (unit, inputs, documents_directory(corpus), limits))


def import_unit(stream: BinaryIO, unit: Unit, inputs: str, directory: Path, limits: ImportLimits) -> Mapping[str, Any]:
    """Reads one unit, writes its documents shards into `directory` and its ledger to `stream`."""
    drops, tally = Drops(limits.examples), _Tally()
    known = unit.known_blobs()
    documents = chain.from_iterable(piece.slice.documents(limits, drops, known) for piece in unit.pieces)
    files: dict[str, Any] = {}
    document = next(documents, None)
    while document is not None:
        shard = directory / f"{unit.name}-{len(files):05d}.parquet"
        manifest = write_shard(ShardTask(shard, inputs, _fill, (chain([document], documents), limits, tally)))
        files[f"../{directory.name}/{shard.name}"] = {key: manifest[key] for key in ("sha256", "size_bytes")}
        document = next(documents, None)
    shards = [Path(name).name for name in files]
    ledger = {"source": unit.source, **tally.counts(), "drops": drops.by_reason, "shards": shards}
    stream.write(json.dumps(ledger, indent=1, ensure_ascii=False).encode())
    return {"rows": tally.documents, "files": files}


@dataclass
class _Tally:
    documents: int = 0
    text_bytes: int = 0
    languages: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        self.documents += 1
        self.text_bytes += row["size_bytes"]
        language = self.languages.setdefault(row["language"], Counter())
        language.update(documents=1, text_bytes=row["size_bytes"])

    def counts(self) -> dict[str, Any]:
        languages = {name: dict(self.languages[name]) for name in sorted(self.languages)}
        return {"documents": self.documents, "text_bytes": self.text_bytes, "languages": languages}


def _fill(stream: BinaryIO, documents: Iterator[Document], limits: ImportLimits, tally: _Tally) -> dict[str, Any]:
    """Writes documents until a shard is full."""
    writer = DocumentWriter(stream)
    for document in documents:
        row = document.row()
        writer.add(row)
        tally.add(row)
        if writer.text_bytes >= limits.shard_bytes:
            break
    writer.close()
    return {"rows": writer.rows, "text_bytes": writer.text_bytes}


def _plan_path(corpus: Path, source: str) -> Path:
    return corpus / "imports" / f"{source}.plan.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it and run `data import` again") from None


def _remove(corpus: Path, obsolete: list[Path]) -> None:
    """Removes ledgers and every documents shard that no ledger names any more."""
    for ledger in obsolete:
        remove_shard(ledger)
    named = {shard for ledger in (corpus / "imports").glob("*.ledger") for shard in _read(ledger)["shards"]}
    for shard in documents_directory(corpus).glob("*.parquet"):
        if shard.name not in named:
            remove_shard(shard)


def _report(corpus: Path, examples: int) -> ImportReport:
    """Adds up every ledger and plan of a corpus, in the order of their names."""
    report = ImportReport()
    total, by_source = Drops(examples), {}
    for path in sorted((corpus / "imports").glob("*.ledger")) + sorted((corpus / "imports").glob("*.plan.json")):
        entry = _read(path)
        source = report.sources.setdefault(entry["source"], {"documents": 0, "text_bytes": 0})
        by_source.setdefault(entry["source"], Drops(examples)).merge(entry["drops"])
        if path.suffix != ".ledger":
            continue
        report.units += 1
        report.shards += len(entry["shards"])
        for tally in (source, report.__dict__):
            tally["documents"] += entry["documents"]
            tally["text_bytes"] += entry["text_bytes"]
        for language, counts in entry["languages"].items():
            tally = report.languages.setdefault(language, {"documents": 0, "text_bytes": 0})
            for key in tally:
                tally[key] += counts[key]
    for name, drops in sorted(by_source.items()):
        report.sources[name]["drops"] = drops.by_reason
        total.merge(drops.by_reason)
    return replace(
        report,
        drops=total.by_reason,
        sources=dict(sorted(report.sources.items())),
        languages=dict(sorted(report.languages.items())),
    )


def _check(report: ImportReport, sources: Sequence[str], reasons: Mapping[str, str]) -> None:
    for name in sources:
        found = report.sources[name]
        if not found["documents"] and found["drops"] and set(found["drops"]) <= UNREADABLE:
            raise DataError(f"source {name} cannot be read: {_in_words(found['drops'], reasons)}")
    if not report.documents:
        why = _in_words(report.drops, reasons) if report.drops else "the sources hold no files"
        raise DataError(f"nothing is left to train on: {why}")


def _in_words(drops: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str]) -> str:
    parts = sorted(drops.items(), key=lambda item: -item[1]["count"])
    return "; ".join(
        f"{drop['count']} x {reason} ({reasons[reason]}), such as {drop['examples'][0]}" for reason, drop in parts
    )


def _write_if_changed(path: Path, value: Any) -> None:
    if not path.is_file() or _read(path) != json.loads(json.dumps(value)):
        write_json(path, value)
