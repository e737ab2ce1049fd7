"""What a commit changes: files before and after, and what of it no text can say."""

import os
from dataclasses import dataclass

import pygit2
from pygit2.enums import DeltaStatus, DiffFind, DiffOption, FileMode

FAILURES = (pygit2.GitError, KeyError, ValueError, OSError)
_REGULAR = (FileMode.BLOB, FileMode.BLOB_EXECUTABLE)
_ODD = {FileMode.LINK: "file_symbolic_link", FileMode.COMMIT: "file_submodule"}


@dataclass(frozen=True)
class Change:
    """One file. `old_path` None: it is added; `new_path` None: it is deleted; both and different: it is renamed.

    `before` and `after` are its texts where they differ; both are empty where only the path says something.
    """

    old_path: str | None
    new_path: str | None
    before: str = ""
    after: str = ""

    @property
    def path(self) -> str:
        return self.new_path or self.old_path or ""


@dataclass(frozen=True)
class LeftOut:
    """A changed file that is no part of the target, and why."""

    reason: str
    path: str


def tree_diff(repository: pygit2.Repository, old: pygit2.Tree, new: pygit2.Tree) -> pygit2.Diff:
    """From one tree to another. What becomes a link, or stops being one, is one change; no user's settings count."""
    return repository.diff(old, new, flags=DiffOption.INCLUDE_TYPECHANGE, context_lines=3)


def read_changes(
    repository: pygit2.Repository, commit: pygit2.Commit, max_file_bytes: int
) -> tuple[list[Change], list[LeftOut]]:
    """The changes of a commit with one parent, in the order of their paths, and what is left out."""
    diff = tree_diff(repository, commit.parents[0].tree, commit.tree)
    if {DeltaStatus.ADDED, DeltaStatus.DELETED} <= {delta.status for delta in diff.deltas}:
        diff.find_similar(flags=DiffFind.FIND_RENAMES)
    changes, left_out = [], []
    for delta in diff.deltas:
        found = _change(repository, delta, max_file_bytes)
        (left_out if isinstance(found, LeftOut) else changes).append(found)
    return sorted(changes, key=lambda change: change.path), left_out


def _change(repository: pygit2.Repository, delta: pygit2.DiffDelta, max_file_bytes: int) -> Change | LeftOut:
    old = None if delta.status == DeltaStatus.ADDED else delta.old_file
    new = None if delta.status == DeltaStatus.DELETED else delta.new_file
    sides = [side for side in (old, new) if side is not None]
    shown = os.fsdecode(sides[-1].raw_path).encode("utf-8", "backslashreplace").decode()
    for side in sides:
        if side.mode not in _REGULAR:
            return LeftOut(_ODD.get(side.mode, "file_not_regular"), shown)
    paths = [path_of(side.raw_path) for side in sides]
    if None in paths:
        return LeftOut("file_odd_path", shown)
    old_path, new_path = paths[0] if old else None, paths[-1] if new else None
    if new is None:
        return Change(old_path, None)
    if old is not None and old.id == new.id:
        return Change(old_path, new_path) if old_path != new_path else LeftOut("file_mode_only", shown)
    texts = [""] if old is None else []
    for side in sides:
        text = text_of(repository, side.id, max_file_bytes)
        if isinstance(text, LeftOut):
            return LeftOut(text.reason, shown)
        texts.append(text)
    return Change(old_path, new_path, *texts)


def path_of(raw: bytes) -> str | None:
    """A path that fits on a line of its own, else None."""
    try:
        path = raw.decode()
    except UnicodeDecodeError:
        return None
    return path if path.isprintable() else None


def text_of(repository: pygit2.Repository, blob: pygit2.Oid, max_bytes: int) -> str | LeftOut:
    """The text of a file, whose UTF-8 is the file again."""
    objects = repository.odb  # a third faster than to look a blob up as an object
    if objects.read_header(blob)[1] > max_bytes:
        return LeftOut("file_too_large", "")
    data = objects.read(blob)[1]
    if b"\0" in data:
        return LeftOut("file_binary", "")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return LeftOut("file_not_utf8", "")


def lines_of(text: str) -> list[str]:
    """Its lines with their ends, of which only LF is one: joined they are the text."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def patch_of(before: str, after: str, context_lines: int) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """The unified diff of two texts as libgit2 writes it, and its hunks: first line and lines, old and new."""
    old, new = before.encode(), after.encode()  # libgit2 points into both for as long as the patch is read
    patch = pygit2.Patch.create_from(old, new, flag=DiffOption.FORCE_TEXT, context_lines=context_lines)
    hunks = [(hunk.old_start, hunk.old_lines, hunk.new_start, hunk.new_lines) for hunk in patch.hunks]
    return bytes(patch.data), hunks
