"""Repositories as folders of files."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.errors import DataError
from data_prep.sources.base import Budget, Drops, ImportLimits, Piece, SourceSpec
from data_prep.sources.content import printable
from data_prep.sources.git import is_bare_repository, plan_git
from data_prep.sources.trees import Entry, TreeReadError, children_in_order, depth_first, overlaps, plan_tree


@dataclass(frozen=True)
class FolderTree:
    """A folder on disk. Links are never followed."""

    root: str

    def entries(self, limits: ImportLimits, start: str, end: str) -> Iterator[Entry]:
        yield from depth_first(lambda folder: self._children(folder, limits, start, end), "")

    def _children(self, folder: str, limits: ImportLimits, start: str, end: str) -> Iterator[Entry | str]:
        """What is in a folder, folders by their path."""
        try:
            with os.scandir(os.path.join(self.root, folder)) as listing:
                children = [(child.name, child.is_dir(follow_symlinks=False)) for child in listing]
        except OSError as error:
            if start <= folder < end:
                yield Entry(folder, problem="unreadable", version=error.strerror or "")
            return
        for name, is_folder in children_in_order(children):
            path = f"{folder}/{name}" if folder else name
            if is_folder and name not in limits.ignored_folders:
                if overlaps(path, start, end):
                    yield path
            elif start <= path < end:
                yield Entry(path, problem="ignored_folder") if is_folder else self._file(path)

    def _file(self, path: str) -> Entry:
        full = os.path.join(self.root, path)
        try:
            status = os.lstat(full)
        except OSError:
            return Entry(path, problem="unreadable")
        version = f"{status.st_mtime_ns}"
        if stat.S_ISLNK(status.st_mode):
            return Entry(path, version=version, problem=_link_problem(full, self.root))
        if not stat.S_ISREG(status.st_mode):
            return Entry(path, version=version, problem="not_a_file")
        return Entry(path, status.st_size, version)

    def read(self, entry: Entry) -> bytes:
        try:
            with open(os.open(os.path.join(self.root, entry.path), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return file.read()
        except OSError as error:
            raise TreeReadError("unreadable", error.strerror or "") from error

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as listing:
                return [child.name for child in listing if child.is_file(follow_symlinks=False)]
        except OSError:
            return []


def _link_problem(link: str, root: str) -> str:
    root = os.path.realpath(root)
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        return "broken_link" if isinstance(error, FileNotFoundError | NotADirectoryError) else "link_loop"
    if os.path.commonpath([root, target]) != root:
        return "link_leaves_folder"
    above = os.path.realpath(os.path.dirname(link))
    return "link_loop" if os.path.commonpath([above, target]) == target else "symbolic_link"


@dataclass(frozen=True)
class LooseFile(FolderTree):
    """A file that lies beside repositories: a tree of that file alone."""

    name: str

    def entries(self, limits: ImportLimits, start: str, end: str) -> Iterator[Entry]:
        yield self._file(self.name)

    def names(self, folder: str) -> list[str]:
        return []


def plan_folder(spec: SourceSpec, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """One folder, one repository, named like the source. A Git work tree is read as the files that lie there."""
    yield from plan_tree(FolderTree(spec.path), spec.name, spec.name, limits, budget, drops)


def plan_folders(spec: SourceSpec, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """Every folder in `spec.path` is a repository (a bare Git one is read at HEAD), every file one of its own."""
    try:
        names = sorted(os.listdir(spec.path))
    except OSError as error:
        raise DataError(f"source {spec.name}: {spec.path} cannot be listed: {error.strerror}") from None
    for name in names:
        repository, full = printable(name), os.path.join(spec.path, name)
        if os.path.islink(full) or not os.path.isdir(full):
            yield from plan_tree(LooseFile(spec.path, name), spec.name, repository, limits, budget, drops)
        elif is_bare_repository(full):
            yield from plan_git(full, spec.name, repository, limits, budget, drops)
        elif name in limits.ignored_folders:
            drops.add("ignored_folder", repository)
        else:
            yield from plan_tree(FolderTree(full), spec.name, repository, limits, budget, drops)
