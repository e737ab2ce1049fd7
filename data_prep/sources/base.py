"""What every source shares: how it is named, what is taken, how drops are counted, how work is cut into units."""

import hashlib
import itertools
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from data_prep.documents import Document
from data_prep.languages import is_notebook
from data_prep.shards import fingerprint
from data_prep.sources.content import printable

Kind = Literal["auto", "folders", "folder", "git", "jsonl", "parquet"]

# Folders of version control, of installed dependencies and of caches: never a repository's own code.
# fmt: off
IGNORED_FOLDERS = frozenset((
    ".git", ".hg", ".svn", ".bzr", "CVS", "node_modules", "bower_components", "__pycache__", ".venv", ".tox", ".nox",
    ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".gradle", ".terraform", ".idea",
    ".vscode",
))
# fmt: on


def is_left_out(path: str) -> bool:
    """Whether a path below a source of tables is hidden, or in a folder that is: such as copies that editors keep."""
    return any(part.startswith(".") or part in IGNORED_FOLDERS for part in path.split("/"))


REASONS = {
    "unknown_language": "neither its name nor its content says that it is in one of the 89 languages",
    "ignored_folder": "folder of version control, dependencies or caches; not entered",
    "too_large": "larger than max_file_bytes",
    "empty": "nothing but white space",
    "binary": "contains NUL bytes",
    "not_utf8": "is neither UTF-8 nor in an encoding that can be told for sure",
    "malformed_notebook": "Jupyter notebook that is not JSON with cells",
    "lfs_pointer": "a Git LFS pointer instead of the file",
    "symbolic_link": "symbolic link; what it points to is taken under its own name",
    "link_leaves_folder": "symbolic link that leaves the repository",
    "link_loop": "symbolic link that leads back to itself or to a folder above it",
    "broken_link": "symbolic link to nothing",
    "submodule": "Git submodule; its files are not part of this repository",
    "not_a_file": "pipe, socket or device",
    "unreadable": "cannot be read",
    "damaged_git": "Git object or repository that cannot be read",
    "malformed_json": "line that is not JSON",
    "wrong_type": "record or field of another type than expected",
    "missing_column": "no column with the content",
    "damaged_table": "archive or table that is damaged or ends too early",
    "total_size": "past max_total_bytes; a table's part that was not read counts as one",
}
_FAMILY_UNITS = 8
# A source from which nothing came but these could not be read at all.
UNREADABLE = frozenset({"unreadable", "damaged_git", "malformed_json", "wrong_type", "missing_column", "damaged_table"})


@dataclass(frozen=True)
class SourceSpec:
    """One place to import from.

    `kind`: "folders" (each entry of `path` is a repository), "folder" (`path` is one repository, read as files), "git"
    (`path` is a bare repository or a work tree, read at HEAD), "jsonl" or "parquet" (a table file or a folder of them),
    or "auto". `name` stays with every document and is part of its id.
    """

    kind: Kind
    path: str | os.PathLike[str]
    name: str


@dataclass(frozen=True)
class ImportLimits:
    """What is taken. The defaults are ours; the report names no limits."""

    max_file_bytes: int = 1 << 20
    """Longer files and records are dropped. 1 MiB of code is data more often than not."""
    max_notebook_bytes: int = 16 << 20
    """The same for Jupyter notebooks, which are mostly outputs; the cells are held to `max_file_bytes`."""
    max_total_bytes: int | None = None
    """Files are taken in the order of sources, repositories and paths until one would pass this many bytes, as listed;
    none after it. A listed file may turn out to be no code, so fewer bytes may be taken, but never more."""
    shard_bytes: int = 64 << 20
    """Text in a documents shard."""
    examples: int = 5
    """Examples kept for each reason to drop, per source."""
    ignored_folders: frozenset[str] = IGNORED_FOLDERS
    """Folders of these names are not entered."""

    def most_bytes(self, path: str) -> int:
        """What a file of this name may have before it is read."""
        return max(self.max_file_bytes, self.max_notebook_bytes) if is_notebook(path) else self.max_file_bytes

    def taking(self) -> list[Any]:
        """What a unit's content depends on, for its fingerprint."""
        return [
            self.max_file_bytes,
            self.max_notebook_bytes,
            self.shard_bytes,
            self.examples,
            sorted(self.ignored_folders),
        ]


@dataclass
class Drops:
    """Counts what was not taken: reason -> count, bytes, how many of them have no size, and the first few examples."""

    examples: int = 5
    by_reason: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: str, example: str, size_bytes: int | None = None) -> None:
        """Counts one; `size_bytes` None is what has no size (a folder) or was not measured."""
        entry = self._entry(reason)
        entry["count"] += 1
        entry["size_bytes"] += size_bytes or 0
        entry["without_size"] += size_bytes is None
        if len(entry["examples"]) < self.examples:
            entry["examples"].append(printable(example))

    def merge(self, by_reason: dict[str, dict[str, Any]]) -> None:
        for reason, other in by_reason.items():
            entry = self._entry(reason)
            entry["count"] += other["count"]
            entry["size_bytes"] += other["size_bytes"]
            entry["without_size"] += without_size(other)
            entry["examples"] = (entry["examples"] + other["examples"])[: self.examples]

    def _entry(self, reason: str) -> dict[str, Any]:
        return self.by_reason.setdefault(reason, {"count": 0, "size_bytes": 0, "without_size": 0, "examples": []})


def without_size(drop: Mapping[str, Any]) -> int:
    """How many of a reason's drops have no size; where an earlier version did not count them, all or none."""
    return drop.get("without_size", 0 if drop["size_bytes"] else drop["count"])


@dataclass
class KnownBlobs:
    """Contents by Git id: a blob that many repositories hold is read once. The least recently used are forgotten."""

    most_bytes: int = 128 << 20
    size_bytes: int = 0
    _found: OrderedDict[tuple[str, str], tuple[Any, int]] = field(default_factory=OrderedDict)

    def get(self, blob: str, name: str, read: Callable[[], Any]) -> Any:
        """What `read` said, now or before, of this blob under this file name (which tells languages apart)."""
        key = (blob, name)
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key][0]
        content = read()
        size_bytes = sys.getsizeof(content.text)
        self._found[key] = (content, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self.most_bytes:
            self.size_bytes -= self._found.popitem(last=False)[1][1]
        return content


@dataclass
class Budget:
    """What is left of max_total_bytes while sources are planned one after the other; once passed, nothing is taken."""

    left: int | None

    def take(self, size_bytes: int) -> bool:
        if self.left is None:
            return True
        if size_bytes > self.left:
            self.left = 0
            return False
        self.left -= size_bytes
        return True


class Slice(Protocol):
    """Picklable description of a part of a source that a worker can read alone."""

    def documents(self, limits: ImportLimits, drops: Drops, known: KnownBlobs | None = None) -> Iterator[Document]:
        """`known` holds what was read for other slices of the unit."""
        ...


@dataclass(frozen=True)
class Piece:
    """A slice as planned: `key` names it within its source for good, `inputs` changes when what it reads changes.

    `family` is the same for pieces that are likely to hold the same blobs; "" is no family.
    """

    slice: Slice
    key: str
    size_bytes: int
    inputs: str
    family: str = ""


@dataclass(frozen=True)
class Unit:
    """Pieces of one source that are imported, retried and skipped together."""

    name: str
    source: str
    pieces: tuple[Piece, ...]

    def inputs(self) -> list[str]:
        return [piece.inputs for piece in self.pieces]

    def known_blobs(self) -> KnownBlobs | None:
        """Where some pieces may hold the same blobs, a place for what is read."""
        families = [piece.family for piece in self.pieces if piece.family]
        return KnownBlobs() if len(set(families)) < len(families) else None


def ends_group(group_bytes: int, key: str, size_bytes: int, target_bytes: int) -> bool:
    """Whether a group that has come to `group_bytes` ends after its last item, `key` of `size_bytes`.

    From half the target on that follows from the item alone, with a chance in proportion to its size; so an item that
    comes or goes changes the groups next to it, not every one after it (content-defined chunking, over names).
    """
    half = target_bytes / 2
    chance = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return group_bytes >= target_bytes or (group_bytes >= half and chance < size_bytes / half)


def group_units(source: str, pieces: Iterable[Piece], target_bytes: int) -> Iterator[Unit]:
    """Groups pieces to units of at most `target_bytes`, unless one piece alone is larger.

    Pieces without a family keep their order. Those of one family come together and count as the first of them, up to
    `_FAMILY_UNITS` times the target: what forks share is then read once.
    """
    group: list[Piece] = []
    size = 0
    for _, family in itertools.groupby(_by_family(pieces), key=lambda piece: piece.family or piece.key):
        for members in _cut(list(family), _FAMILY_UNITS * target_bytes):
            first = members[0]
            if group and size + first.size_bytes > target_bytes:
                yield _unit(source, group)
                group, size = [], 0
            group += members
            size += first.size_bytes
            total = sum(piece.size_bytes for piece in group)
            if ends_group(size, first.key, first.size_bytes, target_bytes) or total >= _FAMILY_UNITS * target_bytes:
                yield _unit(source, group)
                group, size = [], 0
    if group:
        yield _unit(source, group)


def _by_family(pieces: Iterable[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda piece: piece.family)


def _cut(family: list[Piece], most_bytes: int) -> Iterator[list[Piece]]:
    members: list[Piece] = []
    for piece in family:
        if members and sum(member.size_bytes for member in members) + piece.size_bytes > most_bytes:
            yield members
            members = []
        members.append(piece)
    yield members


def _unit(source: str, group: list[Piece]) -> Unit:
    return Unit(f"{source}-{fingerprint(source, group[0].key)[:16]}", source, tuple(group))
