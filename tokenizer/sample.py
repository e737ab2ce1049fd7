"""What a tokenizer is trained on: a reproducible sample of the texts, cut into words.

The sample depends on the texts and the seed alone, not on the order in which the texts come.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

import regex

from tokenizer.errors import require_unicode

# No piece crosses a border. It is the split of Llama 3's tokenizer with single digits and three differences. The blanks
# of an indentation stay together: encoding knows no borders and joins them first, so a word learned with the last of
# them would not be found there (1 % more tokens at a vocabulary of 4,096). English contractions ('s, 't...) are no
# words, since in code they cut quoted strings. And a space only follows a space, which lets the fast encoder work word
# by word (5 times as fast).
WORD = regex.compile(
    r"""
    \ *[^\S\r\n\ ]*[\r\n]+      # line ends and the blanks before them
    |\ {2,}(?=\S)|\t{2,}(?=\S)   # an indentation
    |[^\r\n\p{L}\p{N}]?\p{L}+    # letters and one character before them
    |\p{N}                       # one digit
    |\ ?[^\s\p{L}\p{N}]+[\r\n]*  # punctuation, a space before it and line ends after it
    |\ +|[^\S\ ]+                # other blanks
    """,
    regex.VERBOSE,
)


def sample_texts(
    texts: Iterable[str], max_chars: int | None, max_chars_per_text: int | None, seed: int
) -> Iterator[str]:
    """Of each text at most `max_chars_per_text` characters, and of all texts about `max_chars`.

    A text that is too long gives one window of it, and when there are too many texts those with the smallest hash are
    taken; both are keyed by (seed, text). Holds at most `max_chars` characters and one text in memory.
    """
    windows = (_window(text, max_chars_per_text, seed) for text in _checked(texts) if text)
    if max_chars is None:
        yield from windows
        return
    kept: list[tuple[int, str]] = []  # a heap, largest hash first
    total = 0
    for text in windows:
        heapq.heappush(kept, (-_hash(text, seed, b"text"), text))
        total += len(text)
        while total - len(kept[0][1]) >= max_chars:
            total -= len(heapq.heappop(kept)[1])
    yield from (text for _, text in sorted(kept, reverse=True))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        require_unicode([text], index)
        yield text


def _window(text: str, size: int | None, seed: int) -> str:
    if size is None or len(text) <= size:
        return text
    start = _hash(text, seed, b"window") % (len(text) - size + 1)
    return text[start : start + size]


def _hash(text: str, seed: int, purpose: bytes) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=16, key=str(seed).encode(), person=purpose)
    return int.from_bytes(digest.digest(), "big")


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs. The words of a text, joined, are the text."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(WORD.findall(text))
    return words
