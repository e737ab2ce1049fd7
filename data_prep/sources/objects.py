"""Repositories and tables in an object store: what is below a prefix, in one listing."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.sources.base import Budget, Drops, ImportLimits, Piece, SourceSpec, is_left_out
from data_prep.sources.content import printable
from data_prep.sources.trees import Entry, TreeReadError, plan_tree
from data_prep.storage import as_path, in_words


def objects_below(folder: Path) -> list[Path]:
    """Every object below a prefix, by name."""
    return [as_path(f"s3://{name}") for name in _listed(folder)]


def tables_alone(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The tables below a prefix where there is nothing else (but for a README and the like)."""
    names = [name for name in _listed(folder) if not is_left_out(posixpath.relpath(name, folder.path))]
    tables = [name for name in names if name.endswith(suffixes)]
    others = [name for name in names if name not in tables]
    noted = all(posixpath.basename(name).startswith(("_", "README", "LICENSE")) for name in others)
    return tables if noted else []


def _listed(folder: Any) -> dict[str, dict[str, Any]]:
    """Objects below a prefix: full name -> what the store says of it, in the order of names."""
    found = folder.fs.find(folder.path, detail=True)
    return {name: about for name, about in sorted(found.items()) if about["type"] == "file" and not name.endswith("/")}


@dataclass(frozen=True)
class ObjectTree:
    """The objects below a prefix as the files of a repository; listed where it is planned, and where it is read."""

    url: str

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        object.__setattr__(self, "url", state["url"])

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        root = as_path(self.url)
        inside = {name[len(root.path) :].strip("/"): about for name, about in _listed(root).items()}
        return {path: Entry(path, about["size"], about["ETag"]) for path, about in sorted(inside.items())}

    def entries(self, limits: ImportLimits, start: str, end: str) -> Iterator[Entry]:
        ignored: set[str] = set()
        for path, entry in self._entries.items():
            folders = path.split("/")[:-1]
            at = next((i for i, name in enumerate(folders) if name in limits.ignored_folders), None)
            if at is not None:
                path = "/".join(folders[: at + 1])
                if path in ignored:
                    continue
                ignored.add(path)
                entry = Entry(path, problem="ignored_folder")
            if start <= path < end:
                yield entry

    def read(self, entry: Entry) -> bytes:
        try:
            return (as_path(self.url) / entry.path).read_bytes()
        except OSError as error:
            raise TreeReadError("unreadable", in_words(error)) from error

    def names(self, folder: str) -> list[str]:
        return self._names.get(folder, [])

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self._entries:
            folder, _, name = path.rpartition("/")
            found.setdefault(folder, []).append(name)
        return found


@dataclass(frozen=True)
class LooseObject(ObjectTree):
    """An object that lies beside repositories: a tree of that object alone. `url` is the folder it is in."""

    name: str

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url, "name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        super().__setstate__(state)
        object.__setattr__(self, "name", state["name"])

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        root = as_path(self.url)
        about = root.fs.info(f"{root.path}/{self.name}")
        return {self.name: Entry(self.name, about["size"], about["ETag"])}

    def names(self, folder: str) -> list[str]:
        return []


def plan_objects(spec: SourceSpec, kind: str, limits: ImportLimits, budget: Budget, drops: Drops) -> Iterator[Piece]:
    """One repository ("folder"), or one for each folder and each object directly below the prefix ("folders")."""
    root = as_path(spec.path)
    if kind == "folder":
        yield from plan_tree(ObjectTree(str(root)), spec.name, spec.name, limits, budget, drops)
        return
    try:
        children = root.fs.ls(root.path, detail=True)
    except OSError as error:
        raise DataError(f"source {spec.name}: {spec.path} cannot be listed: {in_words(error)}") from None
    for child in sorted(children, key=lambda child: child["name"]):
        name = child["name"].rstrip("/").rpartition("/")[2]
        if child["name"].rstrip("/") == root.path.rstrip("/"):  # an object that stands for the folder itself
            continue
        if child["type"] != "directory":
            tree: ObjectTree = LooseObject(str(root), name)
        elif name in limits.ignored_folders:
            drops.add("ignored_folder", printable(name))
            continue
        else:
            tree = ObjectTree(str(root / name))
        yield from plan_tree(tree, spec.name, printable(name), limits, budget, drops)
