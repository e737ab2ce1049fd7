"""Git repositories, bare or with a work tree, read from their objects at HEAD."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pygit2
from pygit2.enums import FileMode, ObjectType

from data_prep.errors import DataError
from data_prep.sources.base import Budget, Drops, ImportLimits, Piece, SourceSpec
from data_prep.sources.trees import Entry, TreeReadError, children_in_order, depth_first, overlaps, plan_tree

_FAILURES = (pygit2.GitError, KeyError, ValueError, OSError)
_SPECIAL = {FileMode.LINK: "symbolic_link", FileMode.COMMIT: "submodule"}


def is_bare_repository(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "HEAD")) and all(
        os.path.isdir(os.path.join(path, name)) for name in ("objects", "refs")
    )


def is_work_tree(path: str) -> bool:
    return os.path.exists(os.path.join(path, ".git"))


@lru_cache(maxsize=4)
def _open(path: str) -> pygit2.Repository:
    # Git refuses repositories of other users because their hooks and settings could run things. Nothing is run here.
    pygit2.settings.owner_validation = False
    return pygit2.Repository(path)


def head_commit(path: str) -> str:
    """The id of the commit that HEAD names. Raises `DataError` where there is none that can be read."""
    try:
        return str(_open(path).head.peel(pygit2.Commit).id)
    except _FAILURES as error:
        raise DataError(f"{path}: no commit can be read at HEAD ({_said(error)}); check it with `git fsck`") from None


@dataclass(frozen=True)
class GitTree:
    """The files of one commit."""

    path: str
    commit: str

    def entries(self, limits: ImportLimits, start: str, end: str) -> Iterator[Entry]:
        repository = _open(self.path)
        root = (repository[self.commit].tree_id, "")
        yield from depth_first(lambda folder: self._children(repository, *folder, limits, start, end), root)

    def _children(
        self, repository: pygit2.Repository, tree: pygit2.Oid, folder: str, limits: ImportLimits, start: str, end: str
    ) -> Iterator[Entry | tuple[pygit2.Oid, str]]:
        """What is in a folder, folders by their tree and path."""
        try:
            children = {os.fsdecode(child.raw_name): child for child in repository[tree]}
        except (*_FAILURES, TypeError):  # TypeError: an object that is no tree
            if start <= folder < end:
                yield Entry(folder, problem="damaged_git", version=str(tree))
            return
        order = children_in_order([(name, child.type == ObjectType.TREE) for name, child in children.items()])
        for name, is_folder in order:
            path, child = (f"{folder}/{name}" if folder else name), children[name]
            if is_folder and name not in limits.ignored_folders:
                if overlaps(path, start, end):
                    yield child.id, path
            elif start <= path < end:
                yield Entry(path, problem="ignored_folder") if is_folder else _file(repository, path, child)

    def read(self, entry: Entry) -> bytes:
        try:
            return _open(self.path)[entry.version].data
        except (*_FAILURES, AttributeError) as error:  # AttributeError: an object that is no blob
            raise TreeReadError("damaged_git", _said(error)) from error

    def names(self, folder: str) -> list[str]:
        repository = _open(self.path)
        try:
            tree = repository[self.commit].tree
            tree = tree / folder if folder else tree
            return [os.fsdecode(child.raw_name) for child in tree if child.filemode not in _SPECIAL]
        except (*_FAILURES, TypeError):
            return []


def _file(repository: pygit2.Repository, path: str, child: pygit2.Object) -> Entry:
    version = str(child.id)
    if child.filemode in _SPECIAL:
        return Entry(path, version=version, problem=_SPECIAL[child.filemode])
    try:
        kind, size_bytes = repository.odb.read_header(child.id)
    except _FAILURES:
        kind = None
    if kind != ObjectType.BLOB:
        return Entry(path, version=version, problem="damaged_git")
    return Entry(path, size_bytes, version, blob=version)


def _said(error: Exception) -> str:
    return str(error).strip("'") or type(error).__name__


def plan_git(
    path: str, source: str, repository: str, limits: ImportLimits, budget: Budget, drops: Drops
) -> Iterator[Piece]:
    """One Git repository; one that cannot be opened is dropped as a whole."""
    try:
        tree = GitTree(path, head_commit(path))
    except DataError as error:
        drops.add("damaged_git", f"{repository}: {error}")
        return
    yield from plan_tree(tree, source, repository, limits, budget, drops)


def plan_git_source(spec: SourceSpec, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """A source that is one Git repository, named like the source."""
    head_commit(spec.path)
    yield from plan_git(spec.path, spec.name, spec.name, limits, budget, drops)
