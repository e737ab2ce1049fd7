"""Signs that a file was not written by hand: generated, minified, or data; and the plain numbers they rest on.

Recorded, not enforced. The report's oracle gives such files a score of 0 (Seed-Coder report, appendix A.1); these signs
cost nothing, and a selection can drop what they name without an oracle. The values are ours.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from data_prep.annotators.base import Annotator

_GENERATED = re.compile(
    r"""
      \b(auto[- ]?matically|auto|machine|computer)[-\s]?generated\b
    | (?<![\w.])@generated\b | <auto-?generated
    | \b(code|file|source|this\ (file|code|class|module|header|script)(\ (was|is|has\ been))?)\ +
      (automatically\ +)?(auto)?generated\ +(by|from|using|with|automatically)\b
    | ^\W{0,8}(auto)?generated\ (by|from|using|with)\ (?!humans?\b)
    | \bgenerated\ by\ the\ protocol\ buffer\ compiler\b
    | \bdo\ not\ (edit|modify)\ (this\ file|by\ hand|manually|it\b|directly)
    | \bgenerated\b.{0,60}\bdo\ not\ (edit|modify)\b | \bdo\ not\ (edit|modify)\b.{0,60}\bgenerated\b
    """,
    re.VERBOSE | re.MULTILINE,
)
_GENERATED_WORDS = ("generated", "do not edit", "do not modify")  # every match holds one of them
_MINIFIED_LANGUAGES = frozenset({"JavaScript", "CSS", "TypeScript", "HTML"})
_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_DIGITS = string.digits.encode()
_WHITE = string.whitespace.encode()
# A string, or a number that no letter stands before; every way to begin is one of a few bytes, which is what the search
# for the next match is fast by.
_LITERAL = re.compile(
    rb"""
      "[^"\n]*" | '[^'\n]*'
    | [0-9](?<!\w\w)[0-9.]*(?:[eE][+-]?[0-9]+)?\w* | -[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?\w*
    """,
    re.VERBOSE,
)


class Signs(Annotator):
    """Line lengths, shares of characters, and whether the file looks generated, minified or like data."""

    head_characters: int = Field(4096, ge=1)
    """Where a generated file says so: searched this far."""
    long_line: int = Field(1000, ge=1)
    """Characters; longer lines count into `long_line_share`."""
    minified_mean: float = 110.0
    """JavaScript, CSS and the like are minified where lines are longer than this on average and hold little space."""
    minified_space_share: float = 0.1
    """What little space is: white space, of all characters."""
    data_literal_share: float = 0.75
    """A file is data when numbers and quoted strings are more of its characters, white space left out."""
    data_bytes: int = 2000
    """Shorter files are not called data."""

    version = 1
    columns: ClassVar = {
        "lines": pa.int32(),
        "mean_line_length": pa.float32(),
        "max_line_length": pa.int32(),
        "long_line_share": pa.float32(),
        "alphanumeric_share": pa.float32(),
        "digit_share": pa.float32(),
        "space_share": pa.float32(),
        "literal_share": pa.float32(),
        "generated": pa.bool_(),
        "minified": pa.bool_(),
        "data_file": pa.bool_(),
    }

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        rows = [self._look(document["text"], document["language"]) for document in documents]
        return {name: [row[name] for row in rows] for name in self.columns}

    def _look(self, text: str, language: str) -> dict[str, Any]:
        size = max(1, len(text))
        lengths = list(map(len, text.split("\n")))
        if lengths[-1] == 0 and len(lengths) > 1:
            lengths.pop()  # what follows the last line's end is no line
        data = text.encode("utf-8", "surrogatepass")
        space = (len(data) - len(data.translate(None, _WHITE))) / size
        mean = sum(lengths) / len(lengths)
        literal = _literal_share(data)
        return {
            "lines": len(lengths),
            "mean_line_length": mean,
            "max_line_length": max(lengths),
            "long_line_share": sum(length for length in lengths if length > self.long_line) / size,
            "alphanumeric_share": _alphanumeric(text, data) / size,
            "digit_share": (len(data) - len(data.translate(None, _DIGITS))) / size,
            "space_share": space,
            "literal_share": literal,
            "generated": is_generated(text[: self.head_characters]),
            "minified": language in _MINIFIED_LANGUAGES
            and mean > self.minified_mean
            and space < self.minified_space_share,
            "data_file": literal > self.data_literal_share and len(data) >= self.data_bytes,
        }


def is_generated(head: str) -> bool:
    """The beginning of a file says that it was not written by hand."""
    lower = head.lower()
    return any(word in lower for word in _GENERATED_WORDS) and _GENERATED.search(lower) is not None


def _alphanumeric(text: str, data: bytes) -> int:
    """Letters and digits of any script."""
    rest = data.translate(None, _ALPHANUMERIC)
    if text.isascii():
        return len(data) - len(rest)
    return len(data) - len(rest) + sum(map(str.isalnum, rest.decode("utf-8", "surrogatepass")))


def _literal_share(data: bytes) -> float:
    """Bytes in numbers and strings that end on their line, with the commas between them, of all that is not space."""
    dense = len(data.translate(None, _WHITE))
    rest = _LITERAL.sub(b"", data).translate(None, _WHITE + b",")
    return (dense - len(rest)) / dense if dense else 0.0
