"""Learning-rate schedules as functions of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.config.schema import LearningRate
from megatron_seed.optim.schedule import learning_rate_at

KINDS = ("constant", "cosine", "warmup_stable_decay", "linear", "inverse_square_root")
PHASE = 10_000


def rate(kind: str) -> LearningRate:
    return LearningRate(schedule=kind, peak=1e-3, minimum=1e-4, warmup_tokens=1000, decay_tokens=2000)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_is_linear_and_ends_at_the_peak(kind: str) -> None:
    assert learning_rate_at(rate(kind), 0, PHASE) == 0.0
    assert learning_rate_at(rate(kind), 500, PHASE) == pytest.approx(5e-4)
    assert learning_rate_at(rate(kind), 1000, PHASE) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("kind", "middle", "end"),
    [
        ("constant", 1e-3, 1e-3),
        ("cosine", 5.5e-4, 1e-4),
        ("linear", 5.5e-4, 1e-4),
        ("warmup_stable_decay", 1e-3, 1e-4),
        ("inverse_square_root", 1e-3 * (1000 / 5500) ** 0.5, 1e-3 * 0.1**0.5),
    ],
)
def test_middle_and_end(kind: str, middle: float, end: float) -> None:
    assert learning_rate_at(rate(kind), 5500, PHASE) == pytest.approx(middle)
    assert learning_rate_at(rate(kind), PHASE, PHASE) == pytest.approx(end)


@given(kind=st.sampled_from(KINDS), tokens=st.integers(1000, 2 * PHASE), more=st.integers(0, PHASE))
def test_after_the_warm_up_it_never_rises_nor_leaves_its_bounds(kind: str, tokens: int, more: int) -> None:
    now, later = (learning_rate_at(rate(kind), at, PHASE) for at in (tokens, tokens + more))
    assert 1e-4 - 1e-12 <= later <= now <= 1e-3 + 1e-12
