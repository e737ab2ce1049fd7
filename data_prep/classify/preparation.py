"""How a text becomes the line that fastText reads; the same in training and in use.

Of the beginning of a text, in this order: fences of code blocks and tags of code (markup that an extraction may have
left, and that would tell a page with code tags by them) are removed, letters are made small, and digits become 0.
What separates words is any space, line ends among them, so indentation does not count. Words are runs of letters and
digits; every other character is a word of its own, or up to three of it that stand together are (`==`, `...`), so
`get_user(x)` is `get _ user ( x )`. Letters of scripts without spaces are words of their own. No word can begin with
fastText's `__label__`, so a text cannot name its label.
"""

import itertools
import re
from collections.abc import Sequence
from functools import cache

import numba
import numpy as np
from pydantic import Field

import data_prep.dedup.jit  # noqa: F401 (before the first kernel runs)
from data_prep.settings import Settings

VERSION = 1
"""Raised when the same text would give another line."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*$", re.MULTILINE)
_TAG = re.compile(r"</?(?:pre|code|kbd|samp|tt|var)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_SPACE, _MARK, _SIGN, _WORD, _DIGIT = range(5)  # _MARK: runs stand together; _SIGN: always a word of its own
_MOST_TOGETHER = 3
_SPACES = ((0x00, 0x20), (0x7F, 0xA0), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000))
_MARKS = ((0x21, 0x7E), (0xA1, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7))
_MARKS += ((0x2010, 0x2027), (0x2030, 0x205E), (0x2190, 0x2BFF), (0x3001, 0x303F), (0xFF01, 0xFF0F))
_SIGNS = ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))


class TextSettings(Settings):
    """What is read of a text. The values are ours."""

    characters: int = Field(10_000, ge=100, le=10_000_000)
    """Of the beginning of each text; what comes after is not looked at."""
    lower_case: bool = True
    digits_as_zero: bool = True


def prepared(texts: Sequence[str], settings: TextSettings) -> list[bytes]:
    """The line of each text: UTF-8, words apart by one space, without a line end."""
    cut = [_without_markup(text[: settings.characters]) for text in texts]
    encoded = [(text.lower() if settings.lower_case else text).encode("utf-8", "replace") for text in cut]
    flat = np.frombuffer(b"".join(encoded), np.uint8)
    bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    out, ends = np.empty(2 * len(flat) + 1, np.uint8), np.empty(len(texts) + 1, np.int64)
    _split(flat, bounds, _classes(settings.digits_as_zero), out, ends)
    whole = out.tobytes()
    return [whole[start:stop] for start, stop in itertools.pairwise(ends)]


def _without_markup(text: str) -> str:
    if "```" in text or "~~~" in text:
        text = _FENCE.sub("", text)
    return _TAG.sub(" ", text) if "<" in text else text


@cache
def _classes(digits_as_zero: bool) -> np.ndarray:
    """[65536] uint8: what each character of the basic plane is; those beyond it are letters."""
    classes = np.full(1 << 16, _WORD, np.uint8)
    for ranges, kind in ((_SPACES, _SPACE), (_MARKS, _MARK), (_SIGNS, _SIGN)):
        for first, last in ranges:
            classes[first : last + 1] = kind
    for first, last in (("A", "Z"), ("a", "z")):
        classes[ord(first) : ord(last) + 1] = _WORD
    classes[ord("0") : ord("9") + 1] = _DIGIT if digits_as_zero else _WORD
    classes.flags.writeable = False
    return classes


@numba.njit(cache=True, nogil=True)
def _split(flat: np.ndarray, bounds: np.ndarray, classes: np.ndarray, out: np.ndarray, ends: np.ndarray) -> None:
    """Lines of texts flat[bounds[i]:bounds[i + 1]] (UTF-8) as out[ends[i]:ends[i + 1]]."""
    written = 0
    ends[0] = 0
    for text in range(len(bounds) - 1):
        place, stop, start = bounds[text], bounds[text + 1], written
        before, run, code_before = _SPACE, 0, -1
        while place < stop:
            byte = flat[place]
            size, code = 1, np.int64(byte)
            if byte >= 0xF0:
                size, code = 4, np.int64(0x10000)
            elif byte >= 0xE0:
                code = (np.int64(byte & 15) << 12) | (np.int64(flat[place + 1] & 63) << 6) | (flat[place + 2] & 63)
                size = 3
            elif byte >= 0xC0:
                code = (np.int64(byte & 31) << 6) | (flat[place + 1] & 63)
                size = 2
            kind = classes[code] if code < 0x10000 else _WORD
            if kind == _SPACE:
                before = _SPACE
                place += size
                continue
            together = kind >= _WORD and before >= _WORD
            if kind == _MARK:
                again = before == _MARK and code == code_before
                run = run + 1 if again else 1
                if run > _MOST_TOGETHER:
                    place += size
                    continue
                together = again
            if not together and written > start:
                out[written] = 32
                written += 1
            for step in range(size):
                out[written + step] = 48 if kind == _DIGIT else flat[place + step]
            written += size
            before, code_before = kind, code
            place += size
        ends[text + 1] = written
