import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fim import split_document

IDS = [f"{i:032x}" for i in range(10_000)]
TEXT = "def function(argument):\n    return argument + constant\n"


@given(text=st.text(), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), document_id=st.text())
def test_the_parts_put_together_are_the_document(text, seed, epoch, document_id):
    parts = split_document(seed, epoch, document_id, text, 1.0)
    assert parts.prefix + parts.middle + parts.suffix == text
    assert parts == split_document(seed, epoch, document_id, text, 1.0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_met(rate):
    found = sum(split_document(1234, 0, document_id, TEXT, rate) is not None for document_id in IDS)
    assert abs(found - rate * len(IDS)) <= 3 * math.sqrt(rate * (1 - rate) * len(IDS))


def test_rates_of_zero_and_one_are_exact():
    assert not any(split_document(1, 0, document_id, TEXT, 0.0) for document_id in IDS)
    assert all(split_document(1, 0, document_id, TEXT, 1.0) for document_id in IDS)


def test_cuts_are_uniform_over_the_places_between_characters():
    text = "abcdefghi"
    parts = [split_document(7, 0, document_id, text, 1.0) for document_id in IDS]
    middles = {(len(part.prefix), len(part.prefix + part.middle)) for part in parts}
    assert middles == {(start, end) for end in range(10) for start in range(end + 1)}
    starts_at_end = sum(len(part.prefix) == 9 for part in parts)
    assert abs(starts_at_end - len(IDS) / 100) <= 4 * math.sqrt(len(IDS) / 100), "both of two cuts at 1 of 10 places"


def test_cuts_fall_inside_words():
    parts = [split_document(1, 0, document_id, TEXT, 1.0) for document_id in IDS[:200]]
    inside = [part for part in parts if part.prefix[-1:].isalpha() and (part.middle + part.suffix)[:1].isalpha()]
    assert len(inside) > 100


def test_another_epoch_or_seed_splits_others_and_elsewhere():
    def splits(seed, epoch):
        return [split_document(seed, epoch, document_id, TEXT, 0.5) for document_id in IDS[:500]]

    first, second, third = splits(1, 1), splits(1, 2), splits(2, 1)
    for other in (second, third):
        assert [part is None for part in first] != [part is None for part in other]
        both = [(a, b) for a, b in zip(first, other, strict=True) if a and b]
        assert sum(a == b for a, b in both) < 0.05 * len(both)


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_document_split_at_one_rate_is_split_alike_at_a_higher_one(low, high):
    low, high = sorted((low, high))
    for document_id in IDS[:50]:
        parts = split_document(1, 0, document_id, TEXT, low)
        assert parts is None or parts == split_document(1, 0, document_id, TEXT, high)
