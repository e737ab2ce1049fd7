"""The update divides, clips and steps: in one pass over the gradients, also where a rank holds none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from megatron_seed.optim.build import update_parameters


def part(*gradients: list[float], clip_grad: float = 1.0) -> SimpleNamespace:
    """As much of a part of megatron-core's optimizer as the update needs."""
    parameters = [torch.nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return SimpleNamespace(config=SimpleNamespace(clip_grad=clip_grad), get_parameters=lambda: parameters)


def updated(*parts: SimpleNamespace, grad_norm: float, tokens: float) -> list[list[float]]:
    optimizer = SimpleNamespace(chained_optimizers=list(parts), step_with_ready_grads=lambda: True)
    assert update_parameters(optimizer, grad_norm, tokens)
    return [parameter.grad.tolist() for one in parts for parameter in one.get_parameters()]


def test_gradients_are_divided_and_clipped_by_the_norm_of_their_mean() -> None:
    # Sums over ten tokens whose mean is [3, 4] has norm 5.
    (clipped,) = updated(part([30.0, 40.0]), grad_norm=5.0, tokens=10)
    assert clipped == pytest.approx([0.6, 0.8], rel=1e-5)
    assert updated(part([3.0], [4.0]), grad_norm=0.5, tokens=10) == [pytest.approx([0.3]), pytest.approx([0.4])]
    assert updated(part([30.0, 40.0], clip_grad=0.0), grad_norm=5.0, tokens=10) == [pytest.approx([3.0, 4.0])]


def test_a_part_without_gradients_and_a_batch_without_tokens() -> None:
    assert updated(part(), part([0.0]), grad_norm=0.0, tokens=0) == [[0.0]]
