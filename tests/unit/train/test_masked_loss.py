"""Positions whose labels do not count lose nothing and teach nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.data.loader import collate
from megatron_seed.runtime.groups import Groups, process_groups

CONFIG = {**PRESETS["seed_coder_tiny"], "init_std": 0.2}
LENGTH, ROWS = 24, 2


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with process_groups(LayoutConfig(), seed=0) as found:
        yield found


@pytest.fixture(scope="module")
def model(groups: Groups) -> torch.nn.Module:
    from megatron_seed.model.build import build_model

    return build_model(ModelConfig(**CONFIG), LayoutConfig(), seed=1)[0]


def loss_and_gradients(groups: Groups, model: torch.nn.Module, batch: dict[str, Any]) -> tuple[float, int, np.ndarray]:
    """Summed loss, counted tokens, and the gradients of the logits, [rows, length, vocabulary]."""
    from megatron_seed.train.step import _forward_step

    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _given: Any, made: Any) -> None:
        made[0].retain_grad()
        kept.append(made[0])

    handle = model.output_layer.register_forward_hook(keep)
    output, reduce_loss = _forward_step(groups, iter([dict(batch)]), model)
    handle.remove()
    total, tokens, _ = reduce_loss(output)
    total.backward()
    gradients = kept[0].grad.reshape(-1, kept[0].shape[-1])
    rows = 1 if "document_ends" in batch else ROWS
    gradients = gradients.reshape(-1, rows, gradients.shape[-1]).transpose(0, 1)
    return total.item(), int(tokens), gradients.reshape(ROWS, LENGTH, -1).numpy()


@pytest.mark.parametrize("document_mask", [False, True])
def test_the_loss_is_that_of_the_counted_labels_alone(
    groups: Groups, model: torch.nn.Module, document_mask: bool
) -> None:
    draw = np.random.default_rng(3)
    samples = [draw.integers(0, 128, LENGTH + 1) for _ in range(ROWS)]
    counted = [draw.random(LENGTH) < 0.3 for _ in range(ROWS)]
    documents = [[0, 7, 15], [0, 11]] if document_mask else None
    batch = collate(samples, documents, counted)
    total, tokens, gradients = loss_and_gradients(groups, model, batch)

    counts = np.stack(counted)
    if documents:
        for row, starts in enumerate(documents):
            counts[row, [*(start - 1 for start in starts[1:]), LENGTH - 1]] = False
    assert tokens == counts.sum() > 3
    assert np.array_equal(batch["loss_mask"].numpy(), counts)
    assert not gradients[~counts].any(), "context teaches nothing"
    assert (np.abs(gradients[counts]).max(axis=-1) > 1e-4).all()

    # The loss once more, from the logits that the gradients say: softmax minus one at the label.
    labels = np.stack(samples)[:, 1:]
    probability = 1 + np.take_along_axis(gradients, labels[..., None], -1)[..., 0]
    assert -np.log(probability[counts]).sum() == pytest.approx(total, abs=2e-3)

    # Labels of the context may be anything.
    changed = dict(batch, labels=torch.from_numpy(np.where(counts, labels, (labels + 1) % 128)))
    assert loss_and_gradients(groups, model, changed)[0] == total


def test_where_nothing_counts_nothing_is_learned(groups: Groups, model: torch.nn.Module) -> None:
    batch = collate([np.arange(LENGTH + 1)] * ROWS, None, [np.zeros(LENGTH, bool)] * ROWS)
    total, tokens, gradients = loss_and_gradients(groups, model, batch)
    assert (total, tokens) == (0.0, 0) and not gradients.any()
