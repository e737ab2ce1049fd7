"""MinHash signatures of sets, and of texts as sets of word n-grams.

A word is a maximal run of ASCII letters and digits, underscores and bytes above 127; everything between words is left
out, case is kept. A text is the set of its n-grams of words, hashed to 64 bits; a text of fewer than n words is the one
n-gram of all its words, and a text without a word has no set and is like no other.

A permutation is x -> a x + b modulo 2^32, a odd, of the upper half of the hash. The signature is cut into bands of rows
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4); two sets become a candidate pair when all rows
of a band agree, which for Jaccard similarity s happens with probability 1 - (1 - s^rows)^bands. Beside the bands a
*sketch* is kept, one byte per permutation, from which the similarity of a pair is estimated with an error known in
advance (Li and Koenig, b-bit minwise hashing, 2010), so that most false candidates are never looked at again.
"""

import functools
import math
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

import data_prep.dedup.jit  # noqa: F401 - before the first kernel

_UNROLL = 8  # set members that one pass over the permutations takes in
_FILTER = 1 << 12  # of a table of members seen last; repeated ones need no second look


@dataclass(frozen=True)
class Bands:
    """How a signature is cut up: `bands` times `rows` permutations."""

    bands: int
    rows: int

    def probability(self, similarity: float) -> float:
        """That a pair of this Jaccard similarity becomes a candidate."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def choose_bands(permutations: int, threshold: float, recall: float) -> Bands:
    """The most selective cut that finds pairs at `threshold` with probability of at least `recall`.

    Rows are as many as possible (the more, the fewer false candidates), and bands as many as there is room for. Where
    no cut reaches `recall`, bands have one row.
    """
    cuts = [Bands(permutations // rows, rows) for rows in range(permutations, 0, -1)]
    return next((cut for cut in cuts if cut.probability(threshold) >= recall), cuts[-1])


def estimate_floor(permutations: int, threshold: float, deviations: float) -> int:
    """Equal bytes of two sketches below which a pair is not looked at: `deviations` under what `threshold` gives."""
    agree = threshold + (1 - threshold) / 256
    return max(0, math.floor(permutations * agree - deviations * math.sqrt(permutations * agree * (1 - agree))))


def permutation_factors(permutations: int, seed: int) -> np.ndarray:
    """a (odd) and b of each permutation, uint32 [2, permutations]; the same on every machine and numpy version."""
    with np.errstate(over="ignore"):
        counter = np.arange(2 * permutations, dtype=np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        values = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    factors = (values >> np.uint64(32)).astype(np.uint32).reshape(2, permutations)
    factors[0] |= 1
    return factors


def signatures(members: np.ndarray, offsets: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """MinHash signatures of sets of hashes, uint32 [sets, permutations].

    Set i is members[offsets[i]:offsets[i + 1]], uint64.
    """
    out = np.empty((len(offsets) - 1, factors.shape[1]), np.uint32)
    upper = (members >> np.uint64(32)).astype(np.uint32)
    for index, (start, stop) in enumerate(pairwise(offsets)):
        _minhash(upper[start:stop], stop - start, factors[0], factors[1], out[index])
    return out


def text_signatures(
    flat: np.ndarray, offsets: np.ndarray, ngram_words: int, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Signatures of UTF-8 texts, uint32 [texts, permutations], and how many n-grams each has, repeated ones included.

    Text i is flat[offsets[i]:offsets[i + 1]], uint8.
    """
    count = len(offsets) - 1
    out, counts = np.empty((count, factors.shape[1]), np.uint32), np.empty(count, np.int64)
    _text_signatures(flat, offsets, ngram_words, _is_word_byte(), factors[0], factors[1], out, counts)
    return out, counts


def text_set(text: np.ndarray, ngram_words: int) -> np.ndarray:
    """The hashed word n-grams of a UTF-8 text (uint8): sorted, distinct, uint64."""
    hashes = np.empty(len(text) // 2 + 2, np.uint64)
    ordered = np.sort(hashes[: _ngrams(text, ngram_words, _is_word_byte(), hashes)])
    distinct = np.ones(len(ordered), bool)
    distinct[1:] = ordered[1:] != ordered[:-1]
    return ordered[distinct]


def band_keys(signature: np.ndarray, cut: Bands) -> np.ndarray:
    """One 64-bit hash for each band of each signature, uint64 [sets, bands]; those of different bands differ."""
    keys = np.empty((len(signature), cut.bands), np.uint64)
    _band_keys(signature, cut.rows, keys)
    return keys


def count_equal(sketches: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """In how many bytes the sketches of each pair of rows agree."""
    out = np.empty(len(left), np.int32)
    _count_equal(sketches, left, right, out)
    return out


def overlaps(
    left_sets: tuple[np.ndarray, np.ndarray],
    right_sets: tuple[np.ndarray, np.ndarray],
    left: np.ndarray,
    right: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """For pairs of sets: how many members they share, and have in all.

    A collection of sets is (offsets, members): set i is members[offsets[i]:offsets[i + 1]], sorted and distinct.
    """
    shared = np.empty(len(left), np.uint32)
    _count_shared(*left_sets, *right_sets, left, right, shared)
    sizes = [np.diff(offsets)[chosen] for (offsets, _), chosen in ((left_sets, left), (right_sets, right))]
    return shared, (sizes[0] + sizes[1] - shared).astype(np.uint32)


@functools.cache
def _is_word_byte() -> np.ndarray:
    table = np.zeros(256, np.bool_)
    table[128:] = True
    table[[ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"]] = True
    return table


@numba.njit(nogil=True, cache=True)
def _finish(h):
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return h ^ (h >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def _find_words(text, is_word_byte, edges):
    """Where words begin and end, in turn, into `edges`; returns how many words there are.

    64 bytes at a time as the bits of one number: only where words begin or end is there anything to decide.
    """
    blocks = len(text) // 64 + 1
    inside = np.zeros(blocks * 64, np.uint8)  # what pads it ends a last word
    for position in range(len(text)):
        inside[position] = is_word_byte[text[position]]
    eights = inside.view(np.uint64)
    packed = np.empty(blocks * 8, np.uint8)
    for index in range(len(packed)):  # byte k, 0 or 1, becomes bit k
        packed[index] = np.uint8((eights[index] * np.uint64(0x0102040810204080)) >> np.uint64(56))
    masks = packed.view(np.uint64)
    count = 0
    before = np.uint64(0)
    for block in range(blocks):
        mask = masks[block]
        changes = mask ^ ((mask << np.uint64(1)) | before)
        before = mask >> np.uint64(63)
        while changes:
            edges[count] = block * 64 + trailing_zeros(changes)
            count += 1
            changes &= changes - np.uint64(1)
    return count // 2


@numba.njit(nogil=True, cache=True)
def _eight_bytes(text, at):
    """As one number, the first byte lowest; `at` is unsigned, which makes it a single load."""
    value = np.uint64(text[at])
    for k in range(1, 8):
        value |= np.uint64(text[at + np.uint64(k)]) << np.uint64(8 * k)
    return value


@numba.njit(nogil=True, cache=True)
def _word_hash(text, start, end):
    h = np.uint64(0)
    size, at, end = np.uint64(len(text)), np.uint64(start), np.uint64(end)
    eight = np.uint64(8)
    while at < end:
        left = end - at
        if at + eight <= size:
            part = _eight_bytes(text, at)
            if left < eight:
                part &= (np.uint64(1) << (left << np.uint64(3))) - np.uint64(1)
        else:
            part = np.uint64(0)
            for k in range(left):
                part |= np.uint64(text[at + np.uint64(k)]) << np.uint64(8 * k)
        h = (h ^ part) * np.uint64(0x9FB21C651E98DF25)
        h ^= h >> np.uint64(32)
        at += eight
    return h


@numba.njit(nogil=True, cache=True)
def _ngrams(text, n, is_word_byte, out):
    """Hashes of all n-grams in their order; returns how many. `out` has room for half as many as bytes, and two."""
    edges = np.empty(len(text) + 2, np.uint32)
    words = _find_words(text, is_word_byte, edges)
    if words == 0:
        return 0
    hashes = np.empty(words, np.uint64)
    for word in range(words):
        hashes[word] = _word_hash(text, edges[2 * word], edges[2 * word + 1])
    length = min(n, words)
    count = words - length + 1
    first = np.uint64(words) if words < n else np.uint64(0)  # fewer than n words are another n-gram than any longer one
    out[:count] = first
    for place in range(length):
        for index in range(count):
            out[index] = out[index] * np.uint64(0x9E3779B97F4A7C15) + hashes[index + place]
    for index in range(count):
        out[index] = _finish(out[index])
    return count


@numba.njit(nogil=True, cache=True)
def _minhash(members, count, a, b, out):
    """Element-wise minimum over members of a * member + b, modulo 2^32."""
    out[:] = np.uint32(0xFFFFFFFF)
    whole = count - count % _UNROLL
    for start in range(0, whole, _UNROLL):
        m0, m1, m2, m3 = members[start], members[start + 1], members[start + 2], members[start + 3]
        m4, m5, m6, m7 = members[start + 4], members[start + 5], members[start + 6], members[start + 7]
        for k in range(len(a)):
            low = min(np.uint32(a[k] * m0 + b[k]), np.uint32(a[k] * m1 + b[k]))
            low = min(low, min(np.uint32(a[k] * m2 + b[k]), np.uint32(a[k] * m3 + b[k])))
            low = min(low, min(np.uint32(a[k] * m4 + b[k]), np.uint32(a[k] * m5 + b[k])))
            low = min(low, min(np.uint32(a[k] * m6 + b[k]), np.uint32(a[k] * m7 + b[k])))
            out[k] = min(out[k], low)
    for index in range(whole, count):
        member = members[index]
        for k in range(len(a)):
            out[k] = min(out[k], np.uint32(a[k] * member + b[k]))


@numba.njit(nogil=True, cache=True)
def _text_signatures(flat, offsets, n, is_word_byte, a, b, out, counts):
    longest = 0
    for index in range(len(counts)):
        longest = max(longest, offsets[index + 1] - offsets[index])
    hashes = np.empty(longest // 2 + 2, np.uint64)
    members = np.empty(longest // 2 + 2, np.uint32)
    seen = np.zeros(_FILTER, np.uint32)
    for index in range(len(counts)):
        count = _ngrams(flat[offsets[index] : offsets[index + 1]], n, is_word_byte, hashes)
        counts[index] = count
        kept = 0
        seen[:] = 0
        for position in range(count):
            member = np.uint32(hashes[position] >> np.uint64(32))
            slot = member % np.uint32(_FILTER)
            if seen[slot] != member or member == 0:
                seen[slot] = member
                members[kept] = member
                kept += 1
        _minhash(members, kept, a, b, out[index])


@numba.njit(nogil=True, cache=True)
def _band_keys(signature, rows, keys):
    for index in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            key = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                key = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(signature[index, row])
                key = key ^ (key >> np.uint64(29))
            keys[index, band] = _finish(key)


@numba.njit(nogil=True, cache=True)
def _count_equal(sketches, left, right, out):
    for pair in range(len(left)):
        one, other = sketches[left[pair]], sketches[right[pair]]
        equal = np.int32(0)
        for k in range(len(one)):
            equal += np.int32(one[k] == other[k])
        out[pair] = equal


@numba.njit(nogil=True, cache=True)
def _count_shared(left_offsets, left_members, right_offsets, right_members, left, right, out):
    for pair in range(len(left)):
        i, i_end = left_offsets[left[pair]], left_offsets[left[pair] + 1]
        j, j_end = right_offsets[right[pair]], right_offsets[right[pair] + 1]
        shared = 0
        while i < i_end and j < j_end:
            one, other = left_members[i], right_members[j]
            shared += one == other
            i += one <= other
            j += other <= one
        out[pair] = shared
