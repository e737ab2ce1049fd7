"""One prompt: files one after the other, a needle between two of their lines, and the question, in so many tokens.

Code is put together in a random order of its own for each (seed, length, depth, index). What is too much is cut off at
the beginning, as a context window does, to the character, so that the prompt has exactly the tokens that it should. The
needle stands at the border of two lines (or before all, or behind all) that is nearest to the depth, counted in tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from data_prep.errors import DataError
from data_prep.needle.pool import rank
from data_prep.needle.settings import NeedleSettings
from data_prep.needle.templates import TEMPLATES, Needle, needle_of
from data_prep.repositories.assemble import header_of
from data_prep.repositories.files import File
from data_prep.repositories.settings import RepositorySettings
from tokenizer.encode import Encoder

_MARGIN = 1.05  # tokens of files one by one, over those of all together
_ROUNDS = 8  # of placing the needle and cutting the code, which depend on each other
_ATTEMPTS = 20  # with other names, values and files


@dataclass(frozen=True)
class Haystack:
    """The files that contexts are made of, and how they are counted."""

    files: Sequence[Mapping[str, Any]]
    encoder: Encoder
    settings: NeedleSettings
    _tokens: dict[int, int] = field(default_factory=dict)
    """Of the files that were needed so far, with their headers."""

    def count(self, text: str) -> int:
        return len(self.encoder.encode_batch([text])[0])

    def header(self, repository: str, path: str, language: str) -> str:
        return header_of(RepositorySettings(header=self.settings.header), repository, File(path, language))

    def piece(self, index: int) -> str:
        """A file as it stands in a context."""
        file = self.files[index]
        text = f"{self.header(file['repository'], file['path'], file['language'])}\n{file['text']}"
        return text if text.endswith("\n") else f"{text}\n"

    def tokens(self, index: int) -> int:
        if index not in self._tokens:
            self._tokens[index] = self.count(self.piece(index))
        return self._tokens[index]

    def require(self, tokens: int) -> None:
        """Raises `DataError` where there is not so much code; reads no more files than it takes."""
        found = 0
        for index in range(len(self.files)):
            found += self.tokens(index)
            if found >= tokens * _MARGIN:
                return
        raise DataError(
            f"the {self.settings.split} side has {found:,} tokens in {len(self.files):,} files that fit, and a context "
            f"of {tokens:,} needs {int(tokens * _MARGIN):,}; import more code, hold more out, or make lengths shorter"
        )

    @cached_property
    def _repositories(self) -> Mapping[tuple[str, str], Sequence[int]]:
        """(source, repository) -> its files by path."""
        found: dict[tuple[str, str], list[int]] = {}
        for index in sorted(range(len(self.files)), key=lambda index: (self.files[index]["path"], index)):
            found.setdefault((self.files[index]["source"], self.files[index]["repository"]), []).append(index)
        return found

    def choose(self, key: str, tokens: int) -> list[int]:
        """Files of at least so many tokens: repositories in a random order, each by path from a random file on."""
        chosen, found = [], 0
        for name in sorted(self._repositories, key=lambda name: rank(key, *name)):
            files = self._repositories[name]
            start = rank(key, "start", *name) % len(files)
            for index in [*files[start:], *files[:start]]:
                chosen.append(index)
                found += self.tokens(index)
                if found >= tokens * _MARGIN:
                    return chosen
        return chosen


@dataclass(frozen=True)
class _Code:
    """The files of one context, joined."""

    text: str
    files: Sequence[int]
    ends: Sequence[int]
    """Where each of them ends, in characters."""
    borders: Sequence[int]
    """Where lines begin, and the end."""

    @classmethod
    def of(cls, haystack: Haystack, files: Sequence[int]) -> "_Code":
        pieces = [haystack.piece(index) + "\n" for index in files]
        pieces[-1] = pieces[-1][:-1]
        text = "".join(pieces)
        borders = [0, *(at + 1 for at, character in enumerate(text) if character == "\n")]
        return cls(text, files, list(accumulate(map(len, pieces))), borders)

    def file_at(self, place: int) -> int:
        """Number, among the files, of the one that holds a place."""
        return min(sum(end <= place for end in self.ends), len(self.ends) - 1)

    def indentation_at(self, place: int) -> str:
        """Of the next line that is not empty."""
        line = next((line for line in self.text[place : place + 4096].split("\n") if line.strip()), "")
        return line[: len(line) - len(line.lstrip(" \t"))]


def make_sample(haystack: Haystack, length: int, depth: float, index: int) -> dict[str, Any]:
    """A row of the data set. Raises `DataError` where none could be made."""
    settings = haystack.settings
    wanted = length - settings.answer_tokens
    for attempt in range(_ATTEMPTS):
        key = f"{settings.seed}\0{length}\0{depth}\0{index}\0{attempt}"
        needle = needle_of(key)
        if haystack.count(needle.value) > settings.answer_tokens:
            most = haystack.count(needle.value)
            raise DataError(f"an answer has {most} tokens, and answer_tokens is {settings.answer_tokens}: raise it")
        code = _Code.of(haystack, haystack.choose(key, wanted))
        if needle.value in code.text or needle.name in code.text:
            continue
        made = _place(haystack, code, needle, wanted, depth / 100)
        if made:
            return _row(haystack, code, needle, made, length, depth, index)
    raise DataError(f"length {length}, depth {depth}: no context could be cut to exactly {wanted} tokens")


@dataclass(frozen=True)
class _Placed:
    """A prompt: code[cut:place], the needle, code[place:], the question."""

    cut: int
    place: int
    language: str
    needle: str
    question: str

    def prompt(self, code: str) -> str:
        return f"{code[self.cut : self.place]}{self.needle}{code[self.place :]}{self.question}"


def _place(haystack: Haystack, code: _Code, needle: Needle, wanted: int, depth: float) -> _Placed | None:
    """Cut and place that fit each other. A new cut moves the depth by some tokens, and so sometimes the place."""
    language = haystack.files[code.files[-1]]["language"]
    besides = haystack.count(needle.text(language) + _question(haystack, needle, language))
    cut = _cut_to(haystack, lambda at: code.text[at:], len(code.text), wanted - besides) or 0
    for _ in range(_ROUNDS):
        place = _border(haystack, code, cut, depth)
        # Between two files it is the last line of the first: the second begins with its header.
        language = haystack.files[code.files[code.file_at(max(cut, place - 1))]]["language"]
        text = needle.text(language, code.indentation_at(place))
        placed = _Placed(cut, place, language, text, _question(haystack, needle, language))
        end = len(code.text) if place == cut else place
        new = _cut_to(haystack, lambda at, p=placed: _at(p, at).prompt(code.text), end, wanted)
        if new is None:
            return None
        placed = _at(placed, new)
        if _border(haystack, code, new, depth) == placed.place:
            return placed
        cut = new
    return None


def _at(placed: _Placed, cut: int) -> _Placed:
    """The same with another cut; a needle before all code stays there."""
    place = cut if placed.place == placed.cut else placed.place
    return _Placed(cut, place, placed.language, placed.needle, placed.question)


def _question(haystack: Haystack, needle: Needle, language: str) -> str:
    header = haystack.header("check", f"check.{TEMPLATES[language].extension}", language)
    return f"\n{header}\n{needle.question(language)}"


def _border(haystack: Haystack, code: _Code, cut: int, depth: float) -> int:
    """The border with the number of tokens before it that is nearest to `depth` of all."""
    text = code.text[cut:]
    borders = [0, *(place - cut for place in code.borders if place > cut)]
    if depth in (0, 1):
        return cut + borders[-int(depth)]
    target = depth * haystack.count(text)
    low, high = 0, len(borders) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if haystack.count(text[: borders[middle]]) <= target:
            low = middle
        else:
            high = middle
    before, after = (abs(haystack.count(text[: borders[at]]) - target) for at in (low, high))
    return cut + borders[low if before <= after else high]


def _cut_to(haystack: Haystack, text_of: Callable[[int], str], end: int, wanted: int) -> int | None:
    """Where to cut, from 0 to `end`, so that the text has exactly so many tokens; None where no cut gives that."""
    low, high = 0, end  # text_of(low) has too many tokens or as many, text_of(high) fewer
    if haystack.count(text_of(high)) > wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if haystack.count(text_of(middle)) >= wanted:
            low = middle
        else:
            high = middle
    for at in sorted(range(max(0, low - 64), min(end, low + 64)), key=lambda at: abs(at - low)):
        if haystack.count(text_of(at)) == wanted:
            return at
    return None


def _row(
    haystack: Haystack, code: _Code, needle: Needle, placed: _Placed, length: int, depth: float, index: int
) -> dict[str, Any]:
    prompt = placed.prompt(code.text)
    start = placed.place - placed.cut
    before, whole = (haystack.count(text) for text in (prompt[:start], code.text[placed.cut :]))
    used = code.files[code.file_at(placed.cut) :]
    ids, offsets = haystack.encoder.encode_batch([prompt, prompt + needle.value])
    tokens = int(offsets[1])
    return {
        "id": f"needle-{length}-{depth:g}-{index}",
        "length": length,
        "depth": depth,
        "index": index,
        "language": placed.language,
        "prompt": prompt,
        "answer": needle.value,
        "tokens": tokens,
        "merged_seam": ids[:tokens].tolist() != ids[tokens : 2 * tokens].tolist(),
        "needle": {
            "name": needle.name,
            "text": placed.needle,
            "start": start,
            "end": start + len(placed.needle),
            "tokens_before": before,
            "depth": 100 * before / whole if whole else 0.0,
        },
        "files": [{name: haystack.files[i][name] for name in ("id", "source", "repository", "path")} for i in used],
    }
