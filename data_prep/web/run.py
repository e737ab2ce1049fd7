"""Web archives to documents: list the WARC files of each source, cut large ones into parts, read what is new.

The corpus is one like `data import` makes: documents shards, a ledger for each part, `import.json`. Beside it lies the
annotation `web` with the facts of each page.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from data_prep.annotations import annotation_directory, remove_orphans
from data_prep.documents import list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.importing import ImportReport, SourcePlan, bring_up_to_date
from data_prep.shards import ShardTask, fingerprint, lock_directory
from data_prep.sources.base import Drops
from data_prep.sources.content import printable
from data_prep.sources.objects import objects_below
from data_prep.sources.plan import check_names, default_name, named
from data_prep.storage import as_path, in_words, is_remote, version_of
from data_prep.web.archive import SUFFIXES, Part, can_be_split
from data_prep.web.documents import ANNOTATION, FORMAT, WebUnit, write_unit
from data_prep.web.reader import end_helper
from data_prep.web.reasons import REASONS
from data_prep.web.settings import WebConfig


@dataclass(frozen=True)
class WebSource:
    """A WARC file, or a folder with WARC files in it and below, on a disk or in an object store.

    `name` stays with every document and is part of its id.
    """

    path: str
    name: str


def import_pages(
    corpus: Path,
    sources: Sequence[WebSource],
    config: WebConfig,
    workers: int = 1,
    progress: Progress | None = None,
    engine: Engine | None = None,
    remove: Sequence[str] = (),
) -> ImportReport:
    """Brings a corpus of pages up to date with its sources: only new and changed parts of WARC files are read.

    Sources that are not named now stay as they are, unless in `remove`. Raises `DataError` where a source cannot be
    read, where the corpus holds documents that are no pages, or nothing is left.
    """
    corpus = as_path(corpus)
    if sources or not remove:
        _check_sources(sources)
    try:
        with lock_directory(corpus):
            _check_corpus(corpus)
            plans = {source.name: _plan(corpus, source, config) for source in sources}
            report = bring_up_to_date(corpus, plans, config.examples, workers, progress, engine, remove, REASONS)
            remove_orphans(annotation_directory(corpus, ANNOTATION), list_shards(corpus))
            return report
    finally:
        end_helper()  # where parts were read for this process


def source_of(text: str) -> WebSource:
    """The source that a command line names: `PATH`, or `NAME=PATH`."""
    name, path = named(text)
    if name is not None:
        return WebSource(path, name)
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if text.endswith(suffix)), "")
    return WebSource(text, default_name(text.removesuffix(suffix)))


def _check_sources(sources: Sequence[WebSource]) -> None:
    """Raises `DataError` for names that cannot be used."""
    if not sources:
        raise DataError("no source was given; name at least one WARC file or folder of them")
    check_names([source.name for source in sources])


def _check_corpus(corpus: Path) -> None:
    if any((corpus / "imports").glob("*.ledger")) and not annotation_directory(corpus, ANNOTATION).is_dir():
        raise DataError(f"{corpus} holds documents that are no pages; give pages a corpus of their own")


def _plan(corpus: Path, source: WebSource, config: WebConfig) -> SourcePlan:
    drops = Drops(config.examples)
    return SourcePlan([_task(corpus, unit, version, config) for unit, version in _units(source, config, drops)], drops)


def _units(source: WebSource, config: WebConfig, drops: Drops) -> Iterator[tuple[WebUnit, tuple[int, int | str]]]:
    """The parts of a source's files, with the version of their file."""
    for path, shown in _files(source):
        try:
            version = version_of(path)
            size_bytes = version[0]
            splits = size_bytes > config.part_bytes and can_be_split(path)
        except OSError as error:
            drops.add("unreadable", f"{shown}: {in_words(error)}")
            continue
        for start in range(0, size_bytes, config.part_bytes) if splits else [0]:
            part = Part(path, start, min(start + config.part_bytes, size_bytes) if splits else None)
            name = f"{source.name}-{fingerprint(source.name, shown, start)[:16]}"
            yield WebUnit(name, source.name, shown, part), version


def _task(corpus: Path, unit: WebUnit, version: tuple[int, int | str], config: WebConfig) -> ShardTask:
    settings = config.model_dump(mode="json", exclude={"part_bytes"})
    inputs = fingerprint(FORMAT, settings, unit.source, unit.shown, *version, unit.part.start, unit.part.end)
    ledger = corpus / "imports" / f"{unit.name}.ledger"
    return ShardTask(ledger, inputs, write_unit, (unit, inputs, corpus, config))


def _files(source: WebSource) -> list[tuple[Path, str]]:
    """(path, what it is called within the source) of the WARC files of a source, by name. Raises `DataError`."""
    root = as_path(source.path)
    try:
        if root.is_file():
            return [(root, printable(root.name))]
        if not root.is_dir():
            raise DataError(f"source {source.name}: {source.path} does not exist")
        below = objects_below(root) if is_remote(root) else [path for path in root.rglob("*") if path.is_file()]
    except DataError:
        raise
    except Exception as error:  # also of the object store's client, such as credentials that are not there
        raise DataError(f"source {source.name}: {source.path} cannot be read: {in_words(error)}") from None
    files = sorted((os.path.relpath(str(path), str(root)), path) for path in below if path.name.endswith(SUFFIXES))
    if not files:
        raise DataError(f"source {source.name}: {source.path} holds no WARC file ({', '.join(SUFFIXES)})")
    return [(path, printable(name)) for name, path in files]
