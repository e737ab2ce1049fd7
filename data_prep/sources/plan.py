"""From a source's name and path to its pieces of work."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from data_prep.errors import DataError
from data_prep.sources.base import Budget, Drops, ImportLimits, Kind, Piece, SourceSpec
from data_prep.sources.folders import plan_folder, plan_folders
from data_prep.sources.git import head_commit, is_bare_repository, is_work_tree, plan_git_source
from data_prep.sources.objects import plan_objects, tables_alone
from data_prep.sources.tables import JSONL_SUFFIXES, PARQUET_SUFFIXES, files_below, plan_tables
from data_prep.storage import as_path, in_words, is_remote

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS = ("folders", "folder", "git", "jsonl", "parquet")


def check_sources(sources: Sequence[SourceSpec]) -> None:
    """Raises `DataError` for what can be seen to be wrong before anything is read."""
    if not sources:
        raise DataError("no source was given; name at least one folder, Git repository or table")
    check_names([spec.name for spec in sources])
    for spec in sources:
        is_folder = _is_folder(spec)
        if spec.kind not in ("auto", *_KINDS):
            raise DataError(f"source {spec.name}: kind {spec.kind!r} is none of auto, {', '.join(_KINDS)}")
        if spec.kind in ("folders", "folder", "git") and not is_folder:
            raise DataError(f"source {spec.name}: {spec.path} is not a folder, as kind {spec.kind!r} needs")


def check_names(names: Sequence[str]) -> None:
    """Raises `DataError` for names of sources that cannot be those of files, or are there twice."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(f"source name {name!r}: use letters, digits, '.', '_' and '-' only")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two sources are named {repeated[0]!r}; give each a name of its own")


def _is_folder(spec: SourceSpec) -> bool:
    """Whether a source is a folder, not a file. Raises `DataError` where it is neither, or cannot be looked at."""
    location = as_path(spec.path)
    try:
        there = location.exists()
        is_folder, is_file = location.is_dir(), location.is_file()
    except Exception as error:  # also of the object store's client, such as credentials that are not there
        raise DataError(f"source {spec.name}: {spec.path} cannot be read: {in_words(error)}") from None
    if not there:
        raise DataError(f"source {spec.name}: {spec.path} does not exist")
    if not (is_folder or is_file):
        raise DataError(f"source {spec.name}: {spec.path} is neither a folder nor a file")
    if is_folder and is_remote(location) and (spec.kind == "git" or (location / "HEAD").is_file()):
        raise DataError(f"source {spec.name}: {spec.path}: Git repositories are read from a disk; copy it to one")
    return is_folder


def named(source: str) -> tuple[str | None, str]:
    """Name, if there is one, and path of `PATH` or `NAME=PATH`; a URL may hold a "=" itself."""
    name, equals, path = source.partition("=")
    return (name, path) if equals and "://" not in name else (None, source)


def default_name(path: str) -> str:
    """A source name made from the last part of a path."""
    base = os.path.basename(os.path.abspath(path))
    for suffix in (*JSONL_SUFFIXES, *PARQUET_SUFFIXES, ".git"):
        base = base.removesuffix(suffix)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-._") or "source"


def resolve_kind(spec: SourceSpec) -> Kind:
    """What "auto" stands for at this path.

    A file is a table by its suffix. A folder is a Git repository when it is one with a commit, a folder of tables when
    it and the folders below hold nothing but tables (and a README), and otherwise a folder of repositories.
    """
    if spec.kind != "auto":
        return spec.kind
    location = as_path(spec.path)
    if is_remote(location):
        tables = [spec.path] if location.is_file() else tables_alone(location, (*JSONL_SUFFIXES, *PARQUET_SUFFIXES))
        return _table_kind(tables, spec) if tables else "folders"
    if os.path.isfile(spec.path):
        return _table_kind([spec.path], spec)
    if is_bare_repository(spec.path):
        return "git"
    if is_work_tree(spec.path):
        try:
            head_commit(spec.path)
            return "git"
        except DataError:
            return "folder"
    tables = _tables_alone(spec)
    return _table_kind(tables, spec) if tables else "folders"


def _tables_alone(spec: SourceSpec) -> list[str]:
    """The table files in a folder and below it, if it holds nothing else; stops at the first file that is no table."""
    tables: list[str] = []
    for path in files_below(spec.path, _not_listed(spec)):
        if path.endswith((*JSONL_SUFFIXES, *PARQUET_SUFFIXES)):
            tables.append(path)
        elif not os.path.basename(path).startswith(("_", "README", "LICENSE")):
            return []
    return tables


def _not_listed(spec: SourceSpec) -> Callable[[OSError], None]:
    def refuse(error: OSError) -> None:
        if error.filename == spec.path:
            raise DataError(f"source {spec.name}: {spec.path} cannot be listed: {error.strerror}")

    return refuse


def _table_kind(files: list[str], spec: SourceSpec) -> Kind:
    kinds = {"parquet" if name.endswith(PARQUET_SUFFIXES) else "jsonl" for name in files}
    unknown = [name for name in files if not name.endswith((*JSONL_SUFFIXES, *PARQUET_SUFFIXES))]
    if unknown:
        suffixes = ", ".join((*JSONL_SUFFIXES, *PARQUET_SUFFIXES))
        raise DataError(f"source {spec.name}: {unknown[0]} is no table by its suffix ({suffixes}); give its kind")
    if len(kinds) > 1:
        raise DataError(f"source {spec.name}: {spec.path} holds both JSONL and parquet; import them as two sources")
    return kinds.pop()


def plan_source(spec: SourceSpec, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """The pieces of a source in their order; what is dropped before reading is counted in `drops`.

    Raises `DataError` when the source as a whole cannot be read.
    """
    location = as_path(spec.path)
    spec = replace(spec, path=str(location))
    kind = resolve_kind(spec)
    if is_remote(location) and kind in ("folder", "folders"):
        return plan_objects(spec, kind, limits, budget, drops)
    if kind == "folders":
        return plan_folders(spec, limits, budget, drops)
    if kind == "folder":
        return plan_folder(spec, limits, budget, drops)
    if kind == "git":
        return plan_git_source(spec, limits, budget, drops)
    return plan_tables(spec, kind, limits, budget, drops)
