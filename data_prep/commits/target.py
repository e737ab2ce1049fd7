"""The target of a sample: which files a commit touches, and how. Written here, and applied again.

    M	src/a.py
    R	src/b.py	src/c.py
    ## changes
    --- a/src/a.py
    +++ b/src/a.py
    @@ -1,2 +1,2 @@
    ...

A line for each file: A (added), M (modified), D (deleted) or R (renamed), then its paths, tabs between. What follows
are the files whose texts differ, each with its hunks, or, as search/replace, `--- path` with its blocks. A deleted
file, and one that is renamed as it is, has nothing there. Where headings are special tokens, the string of one stands
in the place of `## changes` and its line end, as a model's answer reads when it is decoded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.commits.blocks import apply_blocks, write_blocks
from data_prep.commits.changes import Change
from data_prep.commits.reader import Lines
from data_prep.commits.unified import apply_hunks, write_hunks
from data_prep.errors import DataError
from tokenizer.special import STRINGS

CHANGES = "## changes\n"
NOWHERE = "/dev/null"
_PATHS = {"A": 1, "M": 1, "D": 1, "R": 2}


def write_target(
    changes: Sequence[Change], format: str, context_lines: int, most_characters: float = math.inf
) -> str | None:
    """The paths, then the changes; None where that is more than `most_characters`, which is found out early."""
    parts = ["\t".join(_row(change)) + "\n" for change in changes] + [CHANGES]
    left = most_characters - sum(map(len, parts))
    for change in changes:
        if left < 0:
            return None
        parts.append(_edit(change, format, context_lines))
        left -= len(parts[-1])
    return None if left < 0 else "".join(parts)


def _row(change: Change) -> tuple[str, ...]:
    if change.old_path is None:
        return "A", change.path
    if change.new_path is None:
        return "D", change.path
    if change.old_path != change.new_path:
        return "R", change.old_path, change.new_path
    return "M", change.path


def _edit(change: Change, format: str, context_lines: int) -> str:
    if format == "search_replace":
        edit = write_blocks(change.before, change.after)
        return f"--- {change.path}\n{edit}" if edit else ""
    edit = write_hunks(change.before, change.after, context_lines)
    old = NOWHERE if change.old_path is None else f"a/{change.old_path}"
    return f"--- {old}\n+++ b/{change.new_path}\n{edit}" if edit else ""


@dataclass(frozen=True)
class Applied:
    """What a target makes of a snapshot: the files that are there afterwards, and the paths that are not."""

    files: dict[str, str]
    gone: frozenset[str]


def apply_target(
    target: str, before: Callable[[str], str], format: str, marker: str = STRINGS["commit_changes"]
) -> Applied:
    """Applies a target, such as one that a model wrote, to a snapshot: `before(path)` is the text of a file in it.

    `marker` is the string of the special token that may stand for the heading of the changes. A line of paths starts
    with one letter and a tab, so neither can be taken for one. Raises `DataError` saying what does not fit.
    """
    lines = Lines(target)
    rows = []
    while not (lines.skip(CHANGES) or lines.skip(marker)):
        rows.append(_parsed(lines.take(f"a target must have the line {CHANGES.strip()}, or {marker}")))
    sources = {paths[-1]: None if kind == "A" else paths[0] for kind, paths in rows if kind != "D"}
    edited: dict[str, str] = {}
    while lines:
        path = _edited_path(lines, format)
        if path not in sources or path in edited:
            raise DataError(f"{path}: is changed {'twice' if path in edited else 'but not named among the paths'}")
        source = sources[path]
        text = "" if source is None else before(source)
        edited[path] = (apply_blocks if format == "search_replace" else apply_hunks)(text, lines, path)
    for path, source in sources.items():
        if path not in edited and source != path:
            edited[path] = "" if source is None else before(source)
    old = {paths[0] for kind, paths in rows if kind in "DR"}
    return Applied(edited, frozenset(old - set(edited)))


def _parsed(line: str) -> tuple[str, tuple[str, ...]]:
    kind, *paths = line.removesuffix("\n").split("\t")
    if len(paths) != _PATHS.get(kind) or not all(paths):
        raise DataError(f"{line.strip()!r}: a path line is A, M or D with one path, or R with two, tabs between")
    return kind, tuple(paths)


def _edited_path(lines: Lines, format: str) -> str:
    first = lines.take()
    if not first.startswith("--- "):
        raise DataError(f"{first.strip()!r}: the next file, as in '--- path', or its next hunk or block is expected")
    if format == "search_replace":
        return first[4:].removesuffix("\n")
    second = lines.take("a file ends before its line '+++ b/path'")
    if not second.startswith("+++ b/"):
        raise DataError(f"{second.strip()!r}: a line '+++ b/path' is expected")
    return second[6:].removesuffix("\n")
