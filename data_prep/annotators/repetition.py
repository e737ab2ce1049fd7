"""How much of a text repeats itself: lines, paragraphs and word n-grams, as Gopher counts them.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1. All shares
are of what is given as the whole, so that parts that may repeat themselves, such as code, need not be looked at.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data_prep.annotators.decontamination import ngram_hashes, split_words

_APART = np.uint64(0xD6E8FEB86659FD93)
_LENGTH_BITS = 40  # of a count and a length in one number


def repeated_share(pieces: Iterable[str], whole: int) -> float:
    """Characters of pieces that have stood before, over `whole`."""
    seen: set[str] = set()
    repeated = 0
    for piece in pieces:
        if piece in seen:
            repeated += len(piece)
        else:
            seen.add(piece)
    return min(1.0, repeated / whole) if whole else 0.0


class WordNgrams:
    """The word n-grams of several texts at once: `texts`, and the bytes that each of them is a part of."""

    def __init__(self, texts: Sequence[str], whole_bytes: Sequence[int]) -> None:
        self._texts = len(texts)
        self._whole = np.maximum(1, np.asarray(whole_bytes, np.float64))
        sizes = [len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts]
        words = split_words("\n".join(texts).encode("utf-8", "surrogatepass").lower())
        self._text_of = np.searchsorted(np.cumsum(sizes), words.starts, side="right")
        self._hashes = words.hashes
        self._ends = np.concatenate([[0], np.cumsum(words.ends - words.starts)])

    def top_shares(self, n: int) -> list[float]:
        """For each text, bytes in its most frequent n-gram, all its occurrences together; 0 where none occurs twice.

        Of several that are most frequent, the longest.
        """
        order, starts, counts = self._groups(n)
        often = counts > 1
        first, counts = order[starts[often]], counts[often]
        best = np.zeros(self._texts, np.int64)
        np.maximum.at(best, self._text_of[first], counts << _LENGTH_BITS | self._ends[first + n] - self._ends[first])
        return self._shares((best >> _LENGTH_BITS) * (best & ((1 << _LENGTH_BITS) - 1)))

    def repeated_shares(self, n: int) -> list[float]:
        """For each text, bytes of words in n-grams that have stood before; each word counts once."""
        order, starts, _ = self._groups(n)
        again = np.zeros(self._text_of.size, bool)
        again[order] = True
        if starts.size:
            again[np.minimum.reduceat(order, starts)] = False
        places = np.flatnonzero(again)
        edges = np.zeros(self._text_of.size + 1, np.int64)
        np.add.at(edges, places, 1)
        np.add.at(edges, places + n, -1)
        inside = np.cumsum(edges[:-1]) > 0
        lengths = np.diff(self._ends)
        return self._shares(np.bincount(self._text_of[inside], lengths[inside], self._texts))

    def _groups(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places of n-grams, equal ones of a text side by side; where each group starts among them; its size)."""
        count = max(0, self._hashes.size - n + 1)
        places = np.flatnonzero(self._text_of[:count] == self._text_of[n - 1 : n - 1 + count])
        keys = ngram_hashes(self._hashes, n)[places] ^ self._text_of[places].astype(np.uint64) * _APART
        order = np.argsort(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: keys.size])
        return places[order], starts, np.diff(starts, append=keys.size)

    def _shares(self, found: np.ndarray) -> list[float]:
        return np.minimum(1.0, found / self._whole).tolist()
