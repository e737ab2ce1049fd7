"""What tells junk from pages of the web: words, repetition, signs of boilerplate, and the natural language.

Recorded, not enforced. The numbers are those that Gopher (Rae et al. 2021, appendix A1.1) and C4 (Raffel et al. 2020,
section 2.2) have rules for, and the number of words, of which the report wants at least 10 (Seed-Coder report, section
2.2.3). Those rules were made for prose. Code repeats itself and is full of symbols, so it is told from prose line by
line; what is repeated, what lines look like and which language a page is in are asked of its prose alone.
"""

import itertools
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field
from resiliparse.parse.lang import detect_fast

from data_prep.annotators.base import Annotator
from data_prep.annotators.repetition import WordNgrams, repeated_share

_TOP, _REPEATED = (2, 3, 4), (5, 10)
_OF_PROSE = (
    "mean_word_length",
    "alphabetic_word_share",
    "symbols_per_word",
    "ellipsis_line_share",
    "bullet_line_share",
)
_WHITE = string.whitespace.encode()
_ASCII_LETTERS = string.ascii_letters.encode()
# Words as they stand in sentences, unlike names such as `read_all`, `Vec<u8>` or `getValue`.
_PLAIN_WORD = re.compile(r"[(\"'\[]*(?:[A-Z]?[a-z]+|[A-Z]+)(?:['-][A-Za-z]?[a-z]*)*[.,:!?)\"'\]]*")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_CHARACTERS_OF_A_WORD = 2  # in writing without spaces
_BULLET = re.compile(r"(?:[•‣◦▪●○·*\-–—]|\d{1,3}[.)])[ \t]")
_INDENTED = re.compile(r"(?: {4}| {0,3}\t)")
_CODE_END = ("{", "}", ";")
_CODE_SYMBOLS = b"{}[]<>=;\\|&$#@_^~`+*/"
_SYMBOL_EVERY = 12  # characters of a line of code, at most
_ANY_RANK = 1 << 20
_ELLIPSES = ("...", "…")
# Each sign: words of which one must stand there, and what says so.
_NOTICES = {
    "lorem_ipsum": (("lorem ipsum",), re.compile("lorem ipsum")),
    "needs_javascript": (
        ("javascript",),
        re.compile(
            r"\b(enable|activate|turn on|switch on|requires?|need|allow) javascript\b"
            r"|\bjavascript (is |has been |to be |must be |seems to be |appears to be )?(disabled|required|turned off"
            r"|not (enabled|supported|available)|enabled to )"
            r"|\bwithout javascript\b.{0,40}\b(enabled|work)"
        ),
    ),
    "cookies": (
        ("cookie",),
        re.compile(
            r"\b(uses?|using|use of|accept|accept all|enable|reject|reject all|manage|our) cookies\b"
            r"|\bcookie (policy|notice|settings|preferences|consent)\b"
        ),
    ),
    "no_access": (
        ("not found", "denied", "forbidden", "captcha", "human", "browser", "be found", "moved"),
        re.compile(
            r"\b(page|url|resource)\b.{0,60}\b(not found|(cannot|could not|can['’]t) be found)"
            r"|^\W*(error )?404\b.{0,20}\bnot found|\baccess (is )?denied\b|\b403 forbidden\b|\bcaptcha\b"
            r"|\b(are|you['’]re) (a |not a )?(human|robot)\b|\bchecking your browser\b"
            r"|\bpage (has (been )?)?moved\b",
            re.MULTILINE,
        ),
    ),
}


@dataclass(frozen=True)
class Prose:
    """The lines of a text that are not code, without white space around them, and its paragraphs of such lines."""

    lines: list[str]
    paragraphs: list[str]

    @classmethod
    def of(cls, text: str) -> "Prose":
        lines: list[str] = []
        paragraphs: list[str] = []
        start = 0  # of the paragraph that is being read
        for line in text.split("\n"):
            stripped = line.strip()
            if stripped and not is_code(line, stripped):
                lines.append(stripped)
                continue
            if len(lines) > start:
                paragraphs.append("\n".join(lines[start:]))
                start = len(lines)
        if len(lines) > start:
            paragraphs.append("\n".join(lines[start:]))
        return cls(lines, paragraphs)


def is_code(line: str, stripped: str) -> bool:
    """Whether a line looks like code: indented and no list item, full of symbols, or ending as statements do."""
    if _INDENTED.match(line) and not _BULLET.match(stripped):
        return True
    if stripped.endswith(_CODE_END):
        return True
    data = stripped.encode("utf-8", "surrogatepass")
    return (len(data) - len(data.translate(None, _CODE_SYMBOLS))) * _SYMBOL_EVERY > len(stripped)


class Page(Annotator):
    """Counts and shares. Those of lines, paragraphs and n-grams are of prose; those of repetition are prose that
    repeats over the whole text, code included, so that the few lines between blocks of code weigh little.
    `language_margin`: by how much the next language is further off than `natural_language`, in resiliparse's ranks."""

    head_characters: int = Field(4096, ge=64)
    """Of prose, in which notices are looked for, and that the language is read off."""
    language_bytes: int = Field(200, ge=1)
    """With less in plain words of prose, as UTF-8, no language is named: a letter of other scripts says more."""
    most_rank: int = Field(1200, ge=1)
    """Nor where the nearest language is further off, as resiliparse counts it; the value is its own."""

    version = 1
    columns: ClassVar = {
        "words": pa.int32(),
        "characters": pa.int32(),
        "prose_share": pa.float32(),
        "letter_share": pa.float32(),
        **dict.fromkeys(_OF_PROSE, pa.float32()),
        "repeated_line_share": pa.float32(),
        "repeated_paragraph_share": pa.float32(),
        **{f"top_{n}gram_share": pa.float32() for n in _TOP},
        **{f"repeated_{n}gram_share": pa.float32() for n in _REPEATED},
        "notices": pa.list_(pa.string()),
        "natural_language": pa.string(),
        "language_margin": pa.int32(),
    }
    reads = ("text",)

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        texts = [document["text"] for document in documents]
        prose = [Prose.of(text) for text in texts]
        dense = [text.encode("utf-8", "surrogatepass").translate(None, _WHITE) for text in texts]
        rows = [self._look(*each) for each in zip(texts, dense, prose, strict=True)]
        found = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        ngrams = WordNgrams(["\n".join(one.lines) for one in prose], list(map(len, dense)))
        top = {f"top_{n}gram_share": ngrams.top_shares(n) for n in _TOP}
        return {**found, **top, **{f"repeated_{n}gram_share": ngrams.repeated_shares(n) for n in _REPEATED}}

    def _look(self, text: str, dense: bytes, prose: Prose) -> dict[str, Any]:
        said = "\n".join(prose.lines)
        head = said[: self.head_characters]
        language, margin = self._language(head)
        return {
            "words": _words(text),
            "characters": len(text),
            "prose_share": len(said) / max(1, len(text)),
            "letter_share": _letter_share(dense),
            **_shares(prose.lines, said),
            "repeated_line_share": repeated_share(prose.lines, len(text)),
            "repeated_paragraph_share": repeated_share(prose.paragraphs, len(text)),
            "notices": notices(head),
            "natural_language": language,
            "language_margin": margin,
        }

    def _language(self, prose: str) -> tuple[str | None, int | None]:
        """(language as ISO 639-1, by how much the next one is further off), or nothing where there is too little."""
        words = [word for word in prose.split() if not word.isascii() or _PLAIN_WORD.fullmatch(word)]
        said = unicodedata.normalize("NFC", " ".join(words)).lower()  # capitals would pass for Chinese
        if len(said.encode("utf-8", "surrogatepass")) < self.language_bytes:
            return None, None
        (language, rank), (_, next_rank) = detect_fast(said, n_results=2, cutoff=_ANY_RANK)
        return (language, next_rank - rank) if rank <= self.most_rank else (None, None)


def notices(prose: str) -> list[str]:
    """Which boilerplate a text holds: filler, notices about scripts and cookies, pages that are not there."""
    lower = prose.lower()
    return [
        name
        for name, (words, pattern) in _NOTICES.items()
        if any(word in lower for word in words) and pattern.search(lower)
    ]


def _shares(lines: Sequence[str], prose: str) -> dict[str, float | None]:
    """What lines and words of prose look like; null where there are none."""
    words = prose.split()
    if not words:
        return dict.fromkeys(_OF_PROSE)
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    symbols = sum(map(prose.count, ("#", *_ELLIPSES)))
    other = list(itertools.filterfalse(str.isalpha, words))
    numbers = sum(not any(map(str.isalpha, word)) for word in other)
    return {
        "mean_word_length": sum(map(len, words)) / len(words),
        "alphabetic_word_share": 1 - numbers / len(words),
        "symbols_per_word": symbols / len(words),
        "ellipsis_line_share": ellipses / len(lines),
        "bullet_line_share": sum(_BULLET.match(line) is not None for line in lines) / len(lines),
    }


def _words(text: str) -> int:
    """What stands between spaces and holds a letter or digit; without spaces, every two characters."""
    found = text.split()
    other = itertools.filterfalse(str.isalnum, found)
    words = len(found) - sum(not any(map(str.isalnum, word)) for word in other)
    return words if text.isascii() else words + len(_UNSPACED.findall(text)) // _CHARACTERS_OF_A_WORD


def _letter_share(dense: bytes) -> float:
    """Letters of any script in UTF-8 without white space of ASCII, of its characters."""
    rest = dense.translate(None, _ASCII_LETTERS)
    letters = len(dense) - len(rest)
    if dense.isascii():
        return letters / max(1, len(dense))
    others = rest.decode("utf-8", "surrogatepass")
    return (letters + sum(map(str.isalpha, others))) / (letters + len(others))
