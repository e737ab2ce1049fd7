"""What is never held: all logits of a batch with the loss in chunks, a square of the sequence in attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.runtime.groups import process_groups

TOKENS, VOCABULARY, CHUNK = 96, 5000, 8
LENGTH = 2048


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside gives, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[None]:
    with process_groups(LayoutConfig(), seed=0):
        yield


def test_a_loss_in_chunks_is_the_loss_and_holds_the_logits_of_a_chunk() -> None:
    from megatron_seed.model.chunked_loss import chunked_head_loss
    from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, 1, 16, generator=generator)
    weight = torch.randn(VOCABULARY, 16, generator=generator) / 4
    labels = torch.randint(0, VOCABULARY - 7, (TOKENS, 1), generator=generator)
    weights = torch.rand(TOKENS, 1, generator=generator)
    results, largest = [], []
    for chunked in (True, False):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with Largest() as seen:
            if chunked:
                loss = chunked_head_loss(*leaves, labels, VOCABULARY - 7, CHUNK, False)
            else:
                loss = vocab_parallel_cross_entropy(leaves[0] @ leaves[1].t(), labels, VOCABULARY - 7)
            (loss * weights).sum().backward()
        results.append((loss.detach(), *(leaf.grad for leaf in leaves)))
        largest.append(seen.elements)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert largest[0] <= max(CHUNK * VOCABULARY, weight.numel()) < largest[1] == TOKENS * VOCABULARY


@pytest.mark.parametrize("ends", [(0, LENGTH), (0, 700, 701, LENGTH)], ids=["one document", "three"])
@pytest.mark.parametrize("size", [1, 2], ids=["whole", "half of a row"])
def test_attention_holds_no_square_of_the_sequence(ends: tuple[int, ...], size: int) -> None:
    from megatron.core.transformer.enums import AttnMaskType

    from megatron_seed.model.attention import SdpaCoreAttention, _segments
    from megatron_seed.model.build import Compute, transformer_config
    from megatron_seed.model.rotary import rotary_frequencies

    model = ModelConfig(**PRESETS["seed_coder_tiny"])
    config = transformer_config(model, LayoutConfig(), Compute())
    attention = SdpaCoreAttention(config, 1, AttnMaskType.causal, "self", frequencies=rotary_frequencies(model))
    query, key, value = (
        torch.randn(length, 1, heads, 16, requires_grad=True)
        for length, heads in ((LENGTH // size, 4), (LENGTH, 2), (LENGTH, 2))
    )
    with Largest() as seen:
        attention._attend(query, key, value, _segments(ends, 0, size)).sum().backward()
    assert seen.elements < LENGTH * LENGTH / 2
