"""Decontamination: word n-grams shared with registered benchmarks (Seed-Coder report, section 4: 10-grams).

A word is a run of letters, digits and underscores, as Unicode has them, whatever its case: layout, kinds of spaces and
quotation marks do not matter. Nor does it matter whether a text stands as it is, in a string (JSON, notebooks) or in
HTML: escapes such as `\\n` and `&lt;` are no letters.

Of a benchmark, n-grams without enough letters or with few distinct words are left out: "0 1 2 ... 9" and "a b c ... j"
are in many a test, and say nothing. Scanning is by 64-bit hashes; what they find is then compared.
"""

import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_prep.annotators.base import Annotator
from data_prep.errors import DataError

_PIECE = 1 << 20  # characters looked at together: the memory that a text takes does not grow with it
_PIECE_END = re.compile(r"[^\w\\&#;]")  # where a text can be cut: in no word and no escape
# Apart, because a pattern that can begin with one byte only is searched for ten times as fast.
_STRING_ESCAPES = re.compile(rb"\\(?:[nrt]|u[0-9a-f]{4})")
_HTML_ESCAPES = re.compile(rb"&(?:lt|gt|amp|quot|apos|nbsp|#[0-9]{1,4}|#x[0-9a-f]{1,4});")
_NO_WORDS = re.compile(r"[^\w\x00-\x7f]+")
_WORD_BYTES = np.array([b >= 128 or chr(b).isalnum() or b == ord("_") for b in range(256)])
_LETTER_BYTES = np.array([b >= 128 or chr(b).isalpha() for b in range(256)], np.int64)
_TWO_LETTERS = re.compile(rb"[a-z\x80-\xff].*[a-z\x80-\xff]")
_NUMBER_NAMES = frozenset(b"zero one two three four five six seven eight nine ten".split())
_FILTER_BITS = 24
_BASE, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_LONGEST_WORD = 1 << 12  # further bytes do not change a word's hash
_LONGEST_CARRIED = 1 << 16  # bytes of a word that one piece of a text takes over from the piece before


class Words(NamedTuple):
    """The words of a text: where they start and end in its plain bytes, and their hashes."""

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    hashes: np.ndarray

    def ngrams(self, places: Sequence[int], n: int) -> Iterator[bytes]:
        """The n words from each of the places on, with a space between them."""
        plain, starts, ends = self.data.tobytes(), self.starts.tolist(), self.ends.tolist()
        for place in places:
            yield b" ".join([plain[starts[i] : ends[i]] for i in range(place, place + n)])


class Index(NamedTuple):
    """The benchmarks' n-grams: text -> problems that hold it; and their hashes, sorted, with a bit filter before."""

    ngrams: Mapping[bytes, tuple[str, ...]]
    hashes: np.ndarray
    bits: np.ndarray


class Decontamination(Annotator):
    """Which problems of which benchmark file a document shares n-grams with."""

    benchmarks: tuple[str, ...] = ()
    """JSONL files (.gz too), or folders of them."""
    fields: tuple[str, ...] = (
        "declaration", "prompt", "complete_prompt", "instruct_prompt", "question", "question_content", "description",
        "text", "problem", "content", "starter_code", "canonical_solution", "solution", "suffix", "code", "test",
        "tests", "test_list",
    )  # fmt: skip
    """The fields of a record that are looked for, as one text in this order; lists of strings are strings, too."""
    ids: tuple[str, ...] = ("task_id", "id", "question_id", "name")
    """Fields that name a problem; the first that a record has. Without any, it is the number of its line."""
    n: int = Field(10, ge=2, le=64)
    """Words in an n-gram."""
    minimum_letter_words: int = Field(4, ge=0)
    """An n-gram counts when at least so many of its words hold a letter."""
    minimum_distinct_words: int = Field(5, ge=1)
    """An n-gram counts when at least so many of its words differ."""
    minimum_telling_words: int = Field(2, ge=0)
    """... and so many of these have two letters or more and name no number, unlike "a b c ..." and "one 1 two 2"."""

    version = 2
    columns: ClassVar = {"ngrams": pa.int32(), "problems": pa.list_(pa.string()), "example": pa.string()}
    reads = ("text",)

    def prepare(self) -> None:
        _ = self.index

    def inputs(self) -> Any:
        return [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in self.files().items()]

    def files(self) -> dict[str, Path]:
        """The benchmark files by name, with as many folders before as tell them apart. Raises `DataError` for none."""
        found: list[Path] = []
        for entry in map(Path, self.benchmarks):
            inside = sorted(entry.rglob("*.jsonl")) + sorted(entry.rglob("*.jsonl.gz")) if entry.is_dir() else [entry]
            if not inside or not all(path.is_file() for path in inside):
                raise DataError(f"benchmarks: {entry} is no JSONL file and no folder of them")
            found += [path.resolve() for path in inside]
        if not found:
            raise DataError("decontamination needs benchmark files: --benchmarks PATH, or --set benchmarks=[PATH]")
        return _names(found)

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        rows = [self.matches(document["text"]) for document in documents]
        return dict(zip(self.columns, map(list, zip(*rows, strict=True)), strict=True))

    def matches(self, text: str) -> tuple[int, list[str], str | None]:
        """(shared n-grams, problems in order of their first, the first shared n-gram)."""
        problems: dict[str, None] = {}
        count, example = 0, None
        for words in pieces_of_words(text, self.n):
            for ngram in self._shared(words):
                count, example = count + 1, example or ngram.decode()
                problems |= dict.fromkeys(self.index.ngrams[ngram])
        return count, list(problems), example

    def _shared(self, words: Words) -> list[bytes]:
        """The benchmarks' n-grams among these words."""
        index, hashes = self.index, ngram_hashes(words.hashes, self.n)
        places = hashes >> np.uint64(64 - _FILTER_BITS)
        likely = np.flatnonzero(index.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8) & 1)
        if not likely.size:
            return []
        at = np.searchsorted(index.hashes, hashes[likely])
        found = likely[index.hashes[np.minimum(at, index.hashes.size - 1)] == hashes[likely]]
        return [ngram for ngram in words.ngrams(found.tolist(), self.n) if ngram in index.ngrams]

    @functools.cached_property
    def index(self) -> Index:
        """Of all benchmark files. Raises `DataError` for one that holds no problem."""
        ngrams: dict[bytes, dict[str, None]] = {}
        # One text of each hash, None if it does not tell; a second one with the same hash would not be looked for.
        known: dict[int, bytes | None] = {}
        for file, path in self.files().items():
            for name, text in self._problems(path):
                words = split_words(plain_bytes(text))
                places, hashes = self._lettered(words)
                new = [place for place, hash_ in zip(places, hashes, strict=True) if hash_ not in known]
                texts = dict(zip(new, words.ngrams(new, self.n), strict=True))
                for place, hash_ in zip(places, hashes, strict=True):
                    if place in texts:
                        known[hash_] = texts[place] if self._tells(texts[place]) else None
                    if ngram := known[hash_]:
                        ngrams.setdefault(ngram, {})[f"{file}:{name}"] = None
        every = np.array(sorted(hash_ for hash_, ngram in known.items() if ngram), np.uint64)
        if not every.size:
            names = ", ".join(self.files())
            raise DataError(f"{names}: no n-gram in any of the fields {', '.join(self.fields)}")
        bits = np.zeros(1 << _FILTER_BITS, bool)
        bits[every >> np.uint64(64 - _FILTER_BITS)] = True
        return Index({k: tuple(v) for k, v in ngrams.items()}, every, np.packbits(bits, bitorder="little"))

    def _problems(self, path: Path) -> Iterator[tuple[str, str]]:
        """(name, text of its fields) of every problem of a file."""
        found, fields, number = False, {}, 0
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, 1):
                    if not line.strip():
                        continue
                    record = json.loads(line)
                    name = next((str(record[key]) for key in self.ids if key in record), f"line {number}")
                    fields |= record
                    texts = [text for key in self.fields for text in _strings(record.get(key))]
                    found |= bool(texts)
                    yield name, "\n".join(texts)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read after line {number}: {error}") from None
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: line {number} is no JSON record in UTF-8: {error}") from None
        if not found:
            raise DataError(
                f"{path}: no record has one of the fields {', '.join(self.fields)}. It has "
                f"{', '.join(fields) or 'none'}: name those to look for, --set decontamination.fields=[FIELD, ...]"
            )

    def _tells(self, ngram: bytes) -> bool:
        words = set(ngram.split(b" "))
        return len(words) >= self.minimum_distinct_words and sum(map(_is_telling, words)) >= self.minimum_telling_words

    def _lettered(self, words: Words) -> tuple[list[int], list[int]]:
        """Where n-grams with enough letters begin, each n-gram once, and their hashes."""
        hashes = ngram_hashes(words.hashes, self.n)
        if not hashes.size:
            return [], []
        letters = np.add.reduceat(_LETTER_BYTES[words.data], words.starts) > 0  # of each word; what is between has none
        before = np.concatenate([[0], np.cumsum(letters)])
        enough = before[self.n :] - before[: -self.n] >= self.minimum_letter_words
        _, first = np.unique(hashes, return_index=True)
        places = np.sort(first[enough[first]])
        return places.tolist(), hashes[places].tolist()


@functools.lru_cache(1 << 16)
def _is_telling(word: bytes) -> bool:
    """Whether a word has two letters or more and names no number."""
    return word not in _NUMBER_NAMES and _TWO_LETTERS.search(word) is not None


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Paths, each once, by their last parts: as many as it takes for all names to differ."""
    paths = list(dict.fromkeys(paths))
    depths = range(1, max(len(path.parts) for path in paths) + 1)
    named = ({"/".join(path.parts[-depth:]): path for path in paths} for depth in depths)
    return next(names for names in named if len(names) == len(paths))


def _strings(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def pieces_of_words(text: str, n: int) -> Iterator[Words]:
    """The words of a text, a piece at a time; each begins with the last n - 1 words of those before it."""
    start, before = 0, b""
    while start < len(text):
        end = _PIECE_END.search(text, start + _PIECE, start + 2 * _PIECE)
        stop = end.start() if end else start + 2 * _PIECE  # no benchmark has words of a million letters
        words = split_words(before + plain_bytes(text[start:stop]))
        yield words
        start = stop
        if start < len(text):
            last = words.ngrams(range(words.starts.size)[1 - n :], 1)
            before = b"".join(word[:_LONGEST_CARRIED] + b" " for word in last)


def plain_bytes(text: str) -> bytes:
    """A text of which only words are left as they are: what stands between them is ASCII, and no letters."""
    if not text.isascii():
        text = _NO_WORDS.sub(" ", text.casefold())
    return _HTML_ESCAPES.sub(b" ", _STRING_ESCAPES.sub(b" ", text.encode().lower()))


def split_words(plain: bytes) -> Words:
    """The words of a plain text, with a 64-bit polynomial hash of each."""
    data = np.frombuffer(plain, np.uint8)
    inside = _WORD_BYTES[data]
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if not starts.size:
        return Words(data, starts, ends, np.empty(0, np.uint64))
    lengths = ends - starts
    letters = data[inside].astype(np.uint64)
    first = np.cumsum(lengths) - lengths  # where each word starts among the letters
    place = np.arange(letters.size) - np.repeat(first, lengths)
    letters += np.uint64(1)
    letters *= _powers(_BASE, _LONGEST_WORD)[np.minimum(place, _LONGEST_WORD - 1)]
    return Words(data, starts, ends, _mixed(np.add.reduceat(letters, first)))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """A hash for each n consecutive words; `words`: uint64 [words] -> uint64 [max(0, words - n + 1)]."""
    count = max(0, words.size - n + 1)
    total = np.zeros(count, np.uint64)
    for k, power in enumerate(_powers(_STEP, n)):
        total += words[k : k + count] * power
    return _mixed(total)


@functools.cache
def _powers(base: np.uint64, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(count, base, np.uint64), dtype=np.uint64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spreads what differs in the low bits over all of them (the finaliser of SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
