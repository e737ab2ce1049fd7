"""Which ranks are named when replicas differ."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.train.hooks.replicas import digest, odd_ones_out


def test_the_minority_is_named_and_in_a_tie_all() -> None:
    assert odd_ones_out({rank: {"a": 7, "b": 1} for rank in range(4)}) == []
    assert odd_ones_out({0: {"a": 7}, 1: {"a": 7}, 2: {"a": 8}, 3: {"a": 7}}) == [("a", [2])]
    assert odd_ones_out({0: {"a": 7}, 1: {"a": 8}}) == [("a", [0, 1])]
    assert odd_ones_out({0: {"stage 0": 1}, 1: {"stage 1": 2}}) == [], "stages share nothing"


@given(st.integers(0, 99), st.integers(0, 31), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_flipped_bit_changes_the_digest(place: int, bit: int, dtype: torch.dtype) -> None:
    parameter = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = digest(parameter)
    kind, bits = (torch.int32, 32) if dtype == torch.float32 else (torch.int16, 16)
    mask = torch.tensor(1 << (bit % bits) if bit % bits < bits - 1 else -(1 << (bits - 1)), dtype=kind)
    parameter.view(kind).view(-1)[place] ^= mask
    assert digest(parameter) != before
