"""Changes of a text as search/replace blocks: what is searched for occurs exactly once.

    <<<<<<< SEARCH
    lines of the file as it was
    =======
    lines that take their place
    >>>>>>> REPLACE

The signs are longer than any run of the same sign that starts a line of the block. `(no newline)` behind the second or
third of them says that the line before it ends its file without one. An empty search stands for an empty file.
"""

import re
from collections.abc import Iterator, Sequence

from data_prep.commits.changes import lines_of, patch_of
from data_prep.commits.reader import Lines
from data_prep.errors import DataError

_WIDTH = 7
_RUNS = re.compile(r"<{7,}|={7,}|>{7,}")
_OPEN = re.compile(r"(<{7,}) SEARCH\n")
_BARE = " (no newline)"

Edit = tuple[int, int, list[str]]  # old lines from (inclusive) and to (exclusive), and what takes their place


def write_blocks(before: str, after: str) -> str:
    """The blocks that turn `before` into `after`; "" where they are equal."""
    old = lines_of(before)
    return "".join(_block(old[start:end], new) for start, end, new in _unique(before, old, _edits(before, after)))


def apply_blocks(before: str, lines: Lines, path: str) -> str:
    """What `before` becomes by the blocks that come next. Raises `DataError` where one does not fit exactly once."""
    out, done = [], 0
    found = []
    while lines.next_starts("<" * _WIDTH):
        search, replacement = _read_block(lines, path)
        places = list(_places(before, search))
        if len(places) != 1:
            said = repr("".join(lines_of(search)[:1]).strip())
            raise DataError(f"{path}: what starts with {said} occurs {len(places)} times; it must occur once")
        found.append((places[0], places[0] + len(search), replacement))
    for start, end, replacement in sorted(found):
        if start < done:
            raise DataError(f"{path}: two blocks change the same lines")
        out += [before[done:start], replacement]
        done = end
    return "".join([*out, before[done:]])


def _edits(before: str, after: str) -> list[Edit]:
    new = lines_of(after)
    edits = []
    for old_start, old_lines, new_start, new_lines in patch_of(before, after, 0)[1]:
        start = old_start - 1 if old_lines else old_start
        first = new_start - 1 if new_lines else new_start
        edits.append((start, start + old_lines, new[first : first + new_lines]))
    return edits


def _unique(before: str, old: Sequence[str], edits: Sequence[Edit]) -> Iterator[Edit]:
    """Widens each edit, both ways alike, until its old lines occur once; those that then overlap become one."""
    wide: list[tuple[int, int, list[Edit]]] = []
    for edit in edits:
        low, high = _widened(before, old, edit[0], edit[1])
        inside = [edit]
        while wide and low < wide[-1][1]:
            earlier_low, earlier_high, earlier = wide.pop()
            low, high, inside = min(low, earlier_low), max(high, earlier_high), [*earlier, *inside]
        wide.append((low, high, inside))
    for low, high, inside in wide:
        block, done = [], low
        for start, end, new in inside:
            block += [*old[done:start], *new]
            done = end
        yield low, high, [*block, *old[done:high]]


def _widened(before: str, old: Sequence[str], start: int, end: int) -> tuple[int, int]:
    low, high, step = start, end, 1
    while (low, high) != (0, len(old)) and not _occurs_once(before, "".join(old[low:high])):
        low, high, step = max(0, low - step), min(len(old), high + step), step * 2
    return low, high


def _occurs_once(text: str, search: str) -> bool:
    places = _places(text, search)
    return next(places, None) is not None and next(places, None) is None


def _places(text: str, search: str) -> Iterator[int]:
    """Where the lines of `search` stand in `text`, as characters."""
    if not search or not search.endswith("\n"):  # nothing stands for the whole of an empty file; the rest ends one
        at = len(text) - len(search)
        whole = not text if not search else text.endswith(search) and (at == 0 or text[at - 1] == "\n")
        yield from [at] if whole else []
        return
    if text.startswith(search):
        yield 0
    at = text.find("\n" + search)
    while at >= 0:
        yield at + 1
        at = text.find("\n" + search, at + 1)


def _block(search: Sequence[str], replacement: Sequence[str]) -> str:
    runs = [found[0] for line in (*search, *replacement) if (found := _RUNS.match(line))]
    width = max([_WIDTH, *(len(run) + 1 for run in runs)])
    search_end, bare_search = _closed(search)
    replacement_end, bare = _closed(replacement)
    return (
        f"{'<' * width} SEARCH\n{search_end}{'=' * width}{bare_search}\n{replacement_end}{'>' * width} REPLACE{bare}\n"
    )


def _closed(lines: Sequence[str]) -> tuple[str, str]:
    """The lines with a newline at their end, and what says that there was none."""
    text = "".join(lines)
    return (text + "\n", _BARE) if text and not text.endswith("\n") else (text, "")


def _read_block(lines: Lines, path: str) -> tuple[str, str]:
    opening = _OPEN.fullmatch(lines.take())
    if not opening:
        raise DataError(f"{path}: a block must start with <<<<<<< SEARCH")
    width = len(opening[1])
    search = _until(lines, "=" * width, path)
    return search, _until(lines, ">" * width + " REPLACE", path)


def _until(lines: Lines, sign: str, path: str) -> str:
    found = []
    while True:
        line = lines.take(f"{path}: a block has no line {sign}")
        if line == f"{sign}\n":
            return "".join(found)
        if line == f"{sign}{_BARE}\n":
            return "".join(found).removesuffix("\n")
        found.append(line)
