"""The kernel against plain Python, and what bands find against what they should."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.minhash import (
    Bands,
    band_keys,
    choose_bands,
    count_equal,
    estimate_floor,
    overlaps,
    permutation_factors,
    signatures,
    text_set,
    text_signatures,
)
from data_prep.dedup.pairs import sketch
from data_prep.dedup.settings import NearSettings, load_settings
from data_prep.errors import DataError

FACTORS = permutation_factors(256, 1)


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = re.findall(r"[A-Za-z0-9_\u0080-\U0010ffff]+", text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def joined(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), np.uint8), np.cumsum([0, *map(len, data)])


texts = st.lists(st.sampled_from(["a", "b", "if", "_x", "é", "9", "+", "(", "\n", "'"]), max_size=30).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(one=texts, other=texts, n=st.sampled_from([1, 2, 5]))
def test_sets_overlap_as_sets_of_word_tuples_do(one, other, n):
    sets = [text_set(array(text), n) for text in (one, other)]
    expected = [ngrams(text, n) for text in (one, other)]
    assert [len(found) for found in sets] == [len(found) for found in expected]
    columns = [(np.array([0, len(found)]), found) for found in sets]
    shared, total = overlaps(*columns, np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert (shared[0], total[0]) == (len(expected[0] & expected[1]), len(expected[0] | expected[1]))


def test_words_are_what_stands_between_punctuation():
    same = text_set(array("def add(first, second): return first"), 5)
    assert np.array_equal(same, text_set(array("def  add [first] second;\n\treturn 'first'"), 5))
    assert not np.array_equal(same, text_set(array("def Add(first, second): return first"), 5))
    assert not np.array_equal(text_set(array("ab c"), 5), text_set(array("a bc"), 5))
    assert len(text_set(array("{}();"), 5)) == 0
    assert len(text_set(array("two words"), 5)) == 1


def test_signatures_of_texts_are_those_of_their_sets():
    rng = np.random.default_rng(0)
    many = [" ".join(f"w{word}" for word in rng.integers(0, 40, size)) for size in (0, 1, 4, 5, 6, 300, 9000)]
    found, counts = text_signatures(*joined(many), 5, FACTORS)
    sets = [text_set(array(text), 5) for text in many]
    expected = signatures(np.concatenate(sets), np.cumsum([0, *map(len, sets)]), FACTORS)
    assert np.array_equal(found, expected)
    assert counts.tolist() == [0, 1, 1, 1, 2, 296, 8996]
    upper = (sets[5] >> np.uint64(32)).astype(np.uint32)
    a, b = FACTORS
    with np.errstate(over="ignore"):
        assert np.array_equal(found[5], (upper[:, None] * a + b).min(axis=0))


def pairs_of_similarity(similarity: float, count: int, size: int = 400) -> np.ndarray:
    """Signatures, uint32 [2 * count, 256], of pairs of sets of hashes with this Jaccard similarity."""
    rng = np.random.default_rng(round(similarity * 100))
    shared = round(size * similarity)
    only = (size - shared) // 2
    sets = []
    for _ in range(count):
        members = rng.integers(0, 2**64, shared + 2 * only, dtype=np.uint64)
        sets += [members[: shared + only], np.concatenate([members[:shared], members[shared + only :]])]
    return signatures(np.concatenate(sets), np.cumsum([0, *map(len, sets)]), FACTORS)


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8])
def test_bands_and_estimates_are_as_promised(similarity):
    count = 600
    signature = pairs_of_similarity(similarity, count)
    agree = (signature[::2] == signature[1::2]).mean(axis=1)
    assert abs(agree.mean() - similarity) < 0.01
    assert abs(agree.std() - (similarity * (1 - similarity) / 256) ** 0.5) < 0.006
    for cut in (Bands(42, 6), Bands(16, 16)):
        keys = band_keys(signature, cut)
        found = (keys[::2] == keys[1::2]).any(axis=1).mean()
        assert abs(found - cut.probability(similarity)) < 0.06
    small = sketch(signature)
    equal = count_equal(small, np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2))
    assert abs(equal.mean() / 256 - (similarity + (1 - similarity) / 256)) < 0.01
    if similarity >= 0.7:
        assert (equal >= estimate_floor(256, 0.7, 5.0)).all()
    else:
        assert (equal >= estimate_floor(256, 0.7, 5.0)).mean() < 0.1


def test_keys_of_different_bands_differ():
    keys = band_keys(np.full((1, 256), 7, np.uint32), Bands(64, 4))
    assert len(np.unique(keys)) == 64


@given(
    permutations=st.integers(8, 512),
    threshold=st.floats(0.05, 1.0),
    recall=st.floats(0.5, 0.9999),
)
def test_the_chosen_bands_are_the_most_selective_that_suffice(permutations, threshold, recall):
    cut = choose_bands(permutations, threshold, recall)
    assert cut.bands * cut.rows <= permutations
    if cut.rows > 1:
        assert cut.probability(threshold) >= recall
    curve = [cut.probability(s / 50) for s in range(51)]
    assert curve == sorted(curve) and curve[0] == 0 and curve[-1] == 1
    if cut.rows < permutations:
        assert Bands(permutations // (cut.rows + 1), cut.rows + 1).probability(threshold) < recall


def test_settings_say_what_is_wrong(tmp_path):
    path = tmp_path / "near.yaml"
    path.write_text("threshold: 0.8\nngram_words: 3\n")
    assert load_settings(path, {"seed": 5}) == NearSettings(threshold=0.8, ngram_words=3, seed=5)
    path.write_text("treshold: 0.8\n")
    with pytest.raises(DataError, match=r"near.yaml: there is no key .treshold.; did you mean .threshold."):
        load_settings(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="a mapping"):
        load_settings(path)


def test_kernels_start_without_other_packages_and_leave_them_usable():
    code = """
import sys, numba, numpy as np
from data_prep.dedup import minhash
minhash.text_set(np.frombuffer(b"a b c d e f", np.uint8), 5)
assert not {"awkward", "scipy.linalg"} & set(sys.modules)
assert numba.njit(lambda a: np.dot(a, a))(np.eye(2)).tolist() == [[1, 0], [0, 1]]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_word_is_hashed_alike_wherever_it_stands():
    """Words longer than eight bytes, and at the end of a text, are read in other ways."""
    for word in ("a", "exactly8", "ninechars", "x" * 16, "é" * 20):
        sets = [
            text_set(np.frombuffer(text.encode(), np.uint8), 1) for text in (word, f"{word} ", f"  {word}{' ' * 70}")
        ]
        assert len({tuple(found.tolist()) for found in sets}) == 1 and len(sets[0]) == 1
    every = {int(text_set(np.frombuffer(b"x" * length, np.uint8), 1)[0]) for length in range(1, 40)}
    assert len(every) == 39
