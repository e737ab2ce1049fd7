"""Changes of a text as the hunks of a unified diff."""

import re

from data_prep.commits.changes import lines_of, patch_of
from data_prep.commits.reader import Lines
from data_prep.errors import DataError

_HEADING = re.compile(r"(?m)^(@@ -\S+ \+\S+ @@).*$")  # all other lines start with a space, +, - or \
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n")
_NO_NEWLINE = "\\ No newline at end of file\n"


def write_hunks(before: str, after: str, context_lines: int) -> str:
    """The hunks that turn `before` into `after`, as libgit2 finds them; "" where they are equal."""
    data = patch_of(before, after, context_lines)[0]
    start = data.find(b"\n@@ ")
    if start < 0:
        return ""
    # What libgit2 puts behind @@ is cut at a byte, which may be in the middle of a character: it is not taken.
    return _HEADING.sub(r"\1", data[start + 1 :].decode("utf-8", "replace"))


def apply_hunks(before: str, lines: Lines, path: str) -> str:
    """What `before` becomes by the hunks that come next. Raises `DataError` where one does not fit."""
    old, done, out = lines_of(before), 0, []
    while lines.next_starts("@@ "):
        heading = lines.take()
        start, removed, added = _numbers(heading, path)
        position = start - 1 if removed else start
        was, becomes = _sides(lines, removed, added, path)
        if position < done or old[position : position + removed] != was:
            raise DataError(f"{path}: hunk {heading.strip()} does not fit the file")
        out += [*old[done:position], *becomes]
        done = position + removed
    return "".join([*out, *old[done:]])


def _numbers(heading: str, path: str) -> tuple[int, int, int]:
    """First old line, old lines and new lines of a hunk."""
    found = _HUNK.fullmatch(heading)
    if not found:
        raise DataError(f"{path}: {heading.strip()!r} does not start a hunk; @@ -1,2 +1,2 @@ would")
    start, removed, _, added = (1 if number is None else int(number) for number in found.groups())
    return start, removed, added


def _sides(lines: Lines, removed: int, added: int, path: str) -> tuple[list[str], list[str]]:
    """The old and the new lines of one hunk; its heading says how many, so a line may look like anything."""
    was: list[str] = []
    becomes: list[str] = []
    while len(was) < removed or len(becomes) < added:
        line = lines.take(f"{path}: a hunk ends too early")
        text = line[1:]
        if lines.next_is(_NO_NEWLINE):
            lines.take()
            text = text.removesuffix("\n")
        if line[0] not in " -+":
            raise DataError(f"{path}: {line.strip()!r} is no line of a hunk; it must start with a space, - or +")
        if line[0] != "+":
            was.append(text)
        if line[0] != "-":
            becomes.append(text)
    if len(was) > removed or len(becomes) > added:
        raise DataError(f"{path}: a hunk has more lines than its heading says")
    return was, becomes
