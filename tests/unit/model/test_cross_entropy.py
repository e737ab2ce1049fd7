"""The loss over a split, padded vocabulary against torch's own, on one rank and on two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups

TWO_RANKS = Path(__file__).parents[2] / "distributed" / "cross_entropy_on_two_ranks.py"


@pytest.fixture(scope="module")
def cross_entropy() -> Iterator[Callable[..., torch.Tensor]]:
    """The function under test, in a job of one process."""
    with process_groups(LayoutConfig(), seed=0):
        from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy

        yield vocab_parallel_cross_entropy


def random_case(rows: int, real: int, seed: int = 0, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [6, 2, rows] and labels [6, 2] below `real`."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 2, rows, generator=generator) * scale
    return logits, torch.randint(0, real, (6, 2), generator=generator)


def ours(function: Callable, logits: torch.Tensor, labels: torch.Tensor, real: int) -> tuple[torch.Tensor, ...]:
    """Loss of each token, and the gradient of a weighted sum of the losses."""
    leaf = logits.clone().requires_grad_()
    loss = function(leaf * 1.0, labels, real)  # a copy: the logits are overwritten
    (loss * weights(labels)).sum().backward()
    return loss.detach(), leaf.grad


def theirs(logits: torch.Tensor, labels: torch.Tensor, real: int) -> tuple[torch.Tensor, ...]:
    leaf = logits.double().requires_grad_()
    loss = F.cross_entropy(leaf[..., :real].flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    (loss * weights(labels)).sum().backward()
    return loss.detach(), leaf.grad


def weights(labels: torch.Tensor) -> torch.Tensor:
    """A different weight for each token, zero for the first: what a loss mask does."""
    return torch.arange(labels.numel()).view(labels.shape) / labels.numel()


@given(rows=st.integers(1, 40), padding=st.integers(0, 12), seed=st.integers(0, 1000))
def test_loss_and_gradient_are_torchs_without_the_padding(
    cross_entropy: Callable, rows: int, padding: int, seed: int
) -> None:
    logits, labels = random_case(rows + padding, rows, seed)
    loss, gradient = ours(cross_entropy, logits, labels, rows)
    expected, expected_gradient = theirs(logits, labels, rows)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient[..., rows:].any()


def test_padded_rows_do_not_count_however_large_they_are(cross_entropy: Callable) -> None:
    logits, labels = random_case(16, 10)
    plain = ours(cross_entropy, logits, labels, 10)
    logits[..., 10:] = 1e4
    large = ours(cross_entropy, logits, labels, 10)
    assert torch.equal(plain[0], large[0]) and torch.equal(plain[1], large[1])


def test_large_logits_neither_overflow_nor_lose_the_loss(cross_entropy: Callable) -> None:
    logits, labels = random_case(32, 32, scale=1000.0)
    loss, gradient = ours(cross_entropy, logits, labels, 32)
    expected, _ = theirs(logits, labels, 32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-3)
    assert gradient.isfinite().all()


def test_bf16_logits_are_summed_in_fp32(cross_entropy: Callable) -> None:
    logits, labels = random_case(4000, 3900)
    logits = logits.bfloat16()
    loss, gradient = ours(cross_entropy, logits, labels, 3900)
    expected, expected_gradient = theirs(logits, labels, 3900)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    # Of what is bf16 already, the loss is exact to fp32; a sum in bf16 would be off by percents.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2**-7, atol=1e-6)


def test_two_ranks_agree_with_one(cross_entropy: Callable, start: Callable, tmp_path: Path) -> None:
    cases = []
    # Padding on the second rank only; none; more than the second rank has rows for.
    for real in (25, 32, 13):
        logits, labels = random_case(32, real)
        cases.append({"logits": logits, "labels": labels, "weights": weights(labels), "real": real})
    torch.save(cases, tmp_path / "cases.pt")
    start(TWO_RANKS, tmp_path, processes=2)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for case, first, second in zip(cases, *parts, strict=True):
        loss, gradient = ours(cross_entropy, case["logits"], case["labels"], case["real"])
        assert torch.equal(first["loss"], second["loss"])
        torch.testing.assert_close(first["loss"], loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.cat([first["gradient"], second["gradient"]], -1), gradient)
