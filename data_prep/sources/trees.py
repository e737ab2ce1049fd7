"""Repositories as trees of files, however they are stored: planning them in path order and reading a range of paths."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from data_prep.documents import Document
from data_prep.languages import may_be_code
from data_prep.licences import recognise
from data_prep.shards import fingerprint
from data_prep.sources.base import Budget, Drops, ImportLimits, KnownBlobs, Piece, ends_group
from data_prep.sources.content import Content, content_of, decoded, printable

_LICENCE = re.compile(r"(licen[cs]e|copying|unlicense|copyright)([.\-_].*)?", re.IGNORECASE)
_TELLING_BYTES = 1024  # smaller files are the same in repositories that have nothing to do with each other
LAST = "\U0010ffff"  # sorts after every path
Folder = TypeVar("Folder")


@dataclass(frozen=True)
class Entry:
    """A file of a tree, or something that is no file: then `problem` is the reason it is dropped."""

    path: str
    size_bytes: int = 0
    version: str = ""  # changes with the content
    problem: str | None = None
    blob: str = ""  # Git id of the content, where it has one


class Tree(Protocol):
    """A stored repository. Picklable."""

    def entries(self, limits: ImportLimits, start: str, end: str) -> Iterator[Entry]:
        """Entries with start <= path < end, in the order of their paths' code points."""
        ...

    def read(self, entry: Entry) -> bytes:
        """The file's bytes. Raises `TreeReadError`."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder of the tree ("" is its root)."""
        ...


class TreeReadError(Exception):
    """A file cannot be read; the argument is the drop reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def depth_first(children: Callable[[Folder], Iterator[Entry | Folder]], root: Folder) -> Iterator[Entry]:
    """The entries below `root`, however deep: `children` yields a folder's entries and folders in their order."""
    path = [children(root)]
    while path:
        child = next(path[-1], None)
        if child is None:
            path.pop()
        elif isinstance(child, Entry):
            yield child
        else:
            path.append(children(child))


def children_in_order(names: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """(name, is a folder) in the order that makes a depth-first walk yield full paths in code point order."""
    return sorted(names, key=lambda child: child[0] + "/" if child[1] else child[0])


def overlaps(folder: str, start: str, end: str) -> bool:
    """Whether a folder can hold paths in [start, end)."""
    return folder + "/" < end and start < folder + "0"  # "0" follows "/"


def refusal(entry: Entry, limits: ImportLimits) -> str | None:
    """Why an entry is dropped without being read, if it is."""
    if entry.problem:
        return entry.problem
    if not may_be_code(entry.path):
        return "unknown_language"
    return "too_large" if entry.size_bytes > limits.most_bytes(entry.path) else None


def plan_tree(
    tree: Tree, source: str, repository: str, limits: ImportLimits, budget: Budget, drops: Drops
) -> Iterator[Piece]:
    """Cuts a repository into ranges of paths of about `shard_bytes` each; small ones are one range.

    What lies past the total size is counted in `drops`; everything else is counted by whoever reads the range.
    """
    cut = _Ranges(limits.shard_bytes)
    licences: list[tuple[str, str]] = []
    end = LAST
    for entry in tree.entries(limits, "", LAST):
        takes = refusal(entry, limits) is None
        if end == LAST and takes and not budget.take(entry.size_bytes):
            end = entry.path
        if end != LAST:
            if takes:
                drops.add("total_size", f"{repository}/{printable(entry.path)}", entry.size_bytes)
            continue
        cut.add(entry, entry.size_bytes if takes else 0)
        if _is_licence(entry.path):
            licences.append((printable(entry.path), entry.version))
    for start, stop, size, inputs, family in cut.finish(end):
        part = TreeSlice(tree, source, repository, start, stop)
        inputs = fingerprint(inputs, printable(stop), licences)
        yield Piece(part, f"{repository}/{printable(start)}", size, inputs, family)


@dataclass
class _Ranges:
    """Cuts entries, added in path order, into consecutive ranges: (start, end, bytes, digest of the entries, family).

    The family is the smallest id of a blob. Of forks that share a part s of all their blobs, that is the same with
    probability s (MinHash), and it does not depend on what else is imported.
    """

    target_bytes: int
    done: list[tuple[str, str, int, str, str]] = field(default_factory=list)
    family: str = ""
    start: str = ""
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, entry: Entry, size_bytes: int) -> None:
        if self.size and self.size + size_bytes > self.target_bytes:
            self._close(entry.path)
        line = (entry.path, entry.size_bytes, entry.version, entry.problem)
        self.digest.update(repr(line).encode("utf-8", "backslashreplace"))
        self.size += size_bytes
        if entry.blob and size_bytes >= _TELLING_BYTES:
            self.family = min(self.family or entry.blob, entry.blob)
        if size_bytes and ends_group(self.size, printable(entry.path), size_bytes, self.target_bytes):
            self._close(entry.path + "\0")

    def _close(self, end: str) -> None:
        self.done.append((self.start, end, self.size, self.digest.hexdigest(), self.family))
        self.start, self.size, self.digest, self.family = end, 0, hashlib.sha256(), ""

    def finish(self, end: str) -> list[tuple[str, str, int, str, str]]:
        if self.start < end:
            self._close(end)
        return self.done


@dataclass(frozen=True)
class TreeSlice:
    """The files of one repository with start <= path < end."""

    tree: Tree
    source: str
    repository: str
    start: str
    end: str

    def documents(self, limits: ImportLimits, drops: Drops, known: KnownBlobs | None = None) -> Iterator[Document]:
        licences: dict[str, str | None] = {}
        identifiers: dict[str, str | None] = {}
        for entry in self.tree.entries(limits, self.start, self.end):
            shown = printable(entry.path)
            reason = refusal(entry, limits)
            found = Content(reason=reason) if reason else self._content(entry, shown, limits, known)
            if found.reason:
                drops.add(found.reason, f"{self.repository}/{shown}", None if entry.problem else entry.size_bytes)
                continue
            licence = _nearest_licence(shown.rpartition("/")[0], self.tree.names, licences)
            if licence is not None and licence not in identifiers:
                identifiers[licence] = self._identifier(licence, limits)
            said = identifiers.get(licence) if licence else None
            yield Document(
                self.source,
                self.repository,
                shown,
                found.language,
                found.text,
                licence_file=licence,
                repository_licence=said,
                encoding=found.encoding,
            )

    def _identifier(self, licence_file: str, limits: ImportLimits) -> str | None:
        for entry in self.tree.entries(limits, licence_file, licence_file + "\0"):
            if not entry.problem and entry.size_bytes <= limits.max_file_bytes:
                try:
                    return recognise(decoded(self.tree.read(entry))[0])
                except TreeReadError:
                    return None
        return None

    def _content(self, entry: Entry, shown: str, limits: ImportLimits, known: KnownBlobs | None) -> Content:
        if known is None or not entry.blob:
            return self._read(entry, shown, limits)
        return known.get(entry.blob, shown.rpartition("/")[2], lambda: self._read(entry, shown, limits))

    def _read(self, entry: Entry, shown: str, limits: ImportLimits) -> Content:
        try:
            data = self.tree.read(entry)
        except TreeReadError as error:
            return Content(reason=error.reason)
        if len(data) > limits.most_bytes(entry.path):  # it grew since it was listed
            return Content(reason="too_large")
        return content_of(shown, data, limits.max_file_bytes)


def _is_licence(path: str) -> bool:
    return _LICENCE.fullmatch(path.rpartition("/")[2]) is not None


def _nearest_licence(folder: str, names: Callable[[str], list[str]], known: dict[str, str | None]) -> str | None:
    """The licence file in `folder` or in the nearest folder above it; `known` keeps what was looked up."""
    at, passed = folder, []
    while at not in known:
        found = sorted(name for name in names(at) if _is_licence(name))
        if found:
            known[at] = f"{at}/{printable(found[0])}" if at else printable(found[0])
        elif not at:
            known[at] = None
        else:
            passed.append(at)
            at = at.rpartition("/")[0]
    known.update(dict.fromkeys(passed, known[at]))
    return known[at]
