"""Numbers and untrusted text as the page prints them. Each function gives an en dash for a value that is missing."""

import re
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

MISSING = "–"
# Control characters, halves of surrogate pairs, and marks that reorder or hide the text around them.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def _is_missing(value: Any) -> bool:
    return value is None or isinstance(value, Undefined)


def visible(value: Any) -> Any:
    """Text in which no character can hide: control characters as their pictures (␀), other invisible ones as ⟨U+202E⟩.

    New lines and tabs stay; markup that is already safe stays as it is.
    """
    if isinstance(value, Markup):
        return value
    return _INVISIBLE.sub(_picture, "" if _is_missing(value) else str(value))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def shortened(text: str, head: int, tail: int) -> str:
    """The first and the last characters of a long text, and how much is between them."""
    left = len(text) - head - tail
    return text if left <= 0 else f"{text[:head]}\n⋯ {left:,} more characters ⋯\n{text[len(text) - tail :]}"


def count(value: float | None) -> str:
    """1234567 -> 1,234,567; fractions are rounded."""
    return MISSING if _is_missing(value) else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """With a fixed number of digits after the point."""
    return MISSING if _is_missing(value) else f"{value:,.{digits}f}"


def size(size_bytes: float | None) -> str:
    """Bytes in decimal units: 950 B, 12.3 kB, 58.29 MB, 1.20 GB."""
    if _is_missing(size_bytes):
        return MISSING
    for limit, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 2), (1e3, "kB", 1)):
        if size_bytes >= limit:
            return f"{size_bytes / limit:,.{digits}f} {unit}"
    return f"{size_bytes:,.0f} B"


def duration(seconds: float | None) -> str:
    """4.1 s, 3 min 12 s, 2 h 05 min."""
    if _is_missing(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def percent(share: float | None) -> str:
    """0.5 -> 50 %."""
    return MISSING if _is_missing(share) else f"{100 * share:.3g} %"


def plain(name: Any) -> str:
    """An identifier as words: unknown_language -> unknown language."""
    return str(name).replace("_", " ")


FILTERS = {function.__name__: function for function in (count, decimal, size, duration, percent, plain)}
