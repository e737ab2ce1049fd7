"""Pieces of documents as a report shows them: without secrets and e-mail addresses, whatever the selection says."""

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.annotators.secrets import Secrets
from data_prep.documents import read_rows
from data_prep.redaction import redact
from data_prep.report.source import Source

_HEAD_LINES, _MIDDLE_LINES, _LAST_LINES, _LINE_CHARACTERS = 11, 6, 4, 120
_DIFF_LINES, _COMPARED_LINES = 14, 1000

Place = tuple[int, int]
"""Index of a documents shard, and row in it."""


def add_excerpts(source: Source, examples: Iterable[dict[str, Any]]) -> None:
    """Gives each example, which has a `place`, an `excerpt`."""
    examples = list(examples)
    texts = read_texts(source.shards, [example["place"] for example in examples])
    for example in examples:
        example["excerpt"] = excerpt(texts[example["place"]])


def read_texts(shards: Sequence[Path], places: Iterable[Place]) -> dict[Place, str]:
    """Texts by their place, secrets replaced; of each shard only the row groups that hold one of them are read."""
    texts: dict[Place, str] = {}
    wanted: dict[int, set[int]] = {}
    for shard, row in places:
        wanted.setdefault(shard, set()).add(row)
    for shard, rows in wanted.items():
        for numbers, table in read_rows(shards[shard], np.array(sorted(rows)), ["text"]):
            for row, text in zip(numbers.tolist(), table["text"].to_pylist(), strict=True):
                texts[shard, row] = without_secrets(text)
    return texts


@cache
def _secrets() -> Secrets:
    return Secrets()


def without_secrets(text: str) -> str:
    return redact(text, [span._asdict() for span in _secrets().find(text)])


def excerpt(text: str) -> str:
    """The first lines, some from the middle and the last, long lines cut."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    last = len(lines) - _LAST_LINES
    middle = (len(lines) - _MIDDLE_LINES) // 2
    parts = [(0, _HEAD_LINES), (middle, middle + _MIDDLE_LINES), (last, len(lines))]
    if len(lines) <= _HEAD_LINES + _MIDDLE_LINES + _LAST_LINES + 2:
        parts = [(0, len(lines))]
    elif middle <= _HEAD_LINES + 1 or last <= middle + _MIDDLE_LINES + 1:
        parts = [parts[0], parts[2]]
    shown, end = [], 0
    for start, stop in parts:
        if start > end:
            shown.append(_gap(start - end))
        shown += map(_cut, lines[start:stop])
        end = stop
    return "\n".join(shown)


def difference(one: str, other: str) -> list[tuple[str, str]]:
    """(sign, line) of the first places where two texts differ, with a line before and after; none when they do not."""
    pair = [text.split("\n")[:_COMPARED_LINES] for text in (one, other)]
    lines = list(difflib.unified_diff(*pair, n=1, lineterm=""))[2:]
    shown = [("…", "") if line.startswith("@@") else (line[:1], _cut(line[1:])) for line in lines]
    return shown[1 : _DIFF_LINES + 1]


def _cut(line: str) -> str:
    return line if len(line) <= _LINE_CHARACTERS else f"{line[: _LINE_CHARACTERS - 1]}…"


def _gap(lines: int) -> str:
    return f"⋯ {lines:,} more {'line' if lines == 1 else 'lines'} ⋯"
