"""Repositories of the sources, and which of them are chosen by stars and forks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.commits.metadata import Popularity
from data_prep.commits.settings import RepositorySettings
from data_prep.errors import DataError
from data_prep.shards import fingerprint
from data_prep.sources.base import Drops
from data_prep.sources.content import printable
from data_prep.sources.git import head_commit, is_bare_repository, is_work_tree
from data_prep.sources.plan import check_names


@dataclass(frozen=True)
class CommitSource:
    """A repository, named like the source, or a folder of them: `path/name`, or `path/owner/name`.

    `name` stays with every document and is part of its id.
    """

    path: str
    name: str


@dataclass(frozen=True)
class Repository:
    """`head` is the commit that HEAD names; stars and forks are None where there is no table of them."""

    source: str
    name: str
    path: str
    head: str
    stars: int | None = None
    forks: int | None = None

    @property
    def key(self) -> str:
        """Base name of its files."""
        return f"{self.source}-{fingerprint(self.source, self.name)[:16]}"


def choose_repositories(
    source: CommitSource,
    settings: RepositorySettings,
    metadata: Mapping[str, Popularity] | None,
    drops: Drops,
) -> list[Repository]:
    """The repositories of a source, by name, that have the stars and forks; others are counted in `drops`.

    Raises `DataError` when there is none in it.
    """
    chosen, seen = [], 0
    for name, path in _found(source, drops):
        seen += 1
        known = metadata.get(name) if metadata is not None else Popularity(0, 0)
        reason = _refusal(known, settings)
        if reason:
            drops.add(reason, name)
            continue
        try:
            head = head_commit(path)
        except DataError as error:
            drops.add("damaged_git", f"{name}: {error}")
            continue
        told = (known.stars, known.forks) if metadata is not None else (None, None)
        chosen.append(Repository(source.name, name, path, head, *told))
    if not seen:
        raise DataError(f"source {source.name}: {source.path} holds no Git repository, at its top or two folders down")
    return chosen


def _refusal(known: Popularity | None, settings: RepositorySettings) -> str | None:
    if known is None:
        return "no_metadata"
    if known.stars < settings.min_stars:
        return "few_stars"
    return "few_forks" if known.forks < settings.min_forks else None


def _found(source: CommitSource, drops: Drops) -> Iterator[tuple[str, str]]:
    """(name, path) of the repositories of a source, by name."""
    root = os.path.abspath(source.path)
    if not os.path.isdir(root):
        raise DataError(f"source {source.name}: {source.path} is not a folder")
    if _is_repository(root):
        yield source.name, root
        return
    found = []
    for entry in _folders(root):
        path = os.path.join(root, entry)
        below = [name for name in _folders(path) if _is_repository(os.path.join(path, name))]
        if _is_repository(path):
            found.append((_named(entry), path))
        elif below:
            found += [(_named(f"{entry}/{name}"), os.path.join(path, name)) for name in below]
        else:
            drops.add("no_repository", printable(entry))
    names: Sequence[str] = [name for name, _ in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"source {source.name}: two repositories are called {repeated[0]}; move one to another source")
    yield from sorted(found)


def _is_repository(path: str) -> bool:
    return is_bare_repository(path) or is_work_tree(path)


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".")


def _named(name: str) -> str:
    return printable(name.removesuffix(".git"))


def check_sources(sources: Sequence[CommitSource]) -> None:
    """Raises `DataError` for names that cannot be used."""
    if not sources:
        raise DataError("no source was given; name at least one Git repository or folder of repositories")
    check_names([source.name for source in sources])


def local_path(path: str) -> str:
    """`path`. Raises `DataError` for a URL: Git repositories are read from a disk."""
    if "://" in path:
        raise DataError(f"{path}: Git repositories are read from a disk; copy it to one")
    return os.fspath(Path(path))
