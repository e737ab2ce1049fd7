"""Core attention against attention written out: rotary positions, grouped queries, a cache, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.model.rotary import rotary_frequencies
from megatron_seed.runtime.groups import process_groups

BASE = 500_000.0
HEAD_DIM = 16


@pytest.fixture(scope="module")
def attention() -> Iterator[torch.nn.Module]:
    with process_groups(LayoutConfig(), seed=0):
        from megatron.core.transformer.enums import AttnMaskType

        from megatron_seed.model.attention import SdpaCoreAttention
        from megatron_seed.model.build import Compute, transformer_config

        model = ModelConfig(**{**PRESETS["seed_coder_tiny"], "rotary_base": BASE})
        assert model.head_dim == HEAD_DIM
        config = transformer_config(model, LayoutConfig(), Compute())
        yield SdpaCoreAttention(config, 1, AttnMaskType.causal, "self", frequencies=rotary_frequencies(model))


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same in float64, one query and one head at a time; rotated by transformers."""
    queries, batch, heads, head_dim = query.shape
    keys, groups = key.shape[0], key.shape[2]
    config = LlamaConfig(
        hidden_size=HEAD_DIM, num_attention_heads=1, rope_parameters={"rope_type": "default", "rope_theta": BASE}
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), torch.arange(keys)[None])
    past = keys - queries
    # transformers rotates [batch, heads, seq, head_dim].
    query, _ = apply_rotary_pos_emb(*[query.double().permute(1, 2, 0, 3)] * 2, cos[:, past:], sin[:, past:])
    key, _ = apply_rotary_pos_emb(*[key.double().permute(1, 2, 0, 3)] * 2, cos, sin)
    value = value.double().permute(1, 2, 0, 3)
    rows = []
    for place in range(queries):
        seen = past + place + 1
        for head in range(heads):
            group = head // (heads // groups)
            scores = (key[:, group, :seen] @ query[:, head, place, :, None]).squeeze(-1) / math.sqrt(head_dim)
            rows.append((scores.softmax(-1)[:, None] @ value[:, group, :seen]).squeeze(1))
    return torch.stack(rows).view(queries, heads, batch, head_dim).transpose(1, 2).flatten(2)


def tensors(queries: int, keys: int, heads: int, groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = [(queries, 3, heads, HEAD_DIM), (keys, 3, groups, HEAD_DIM), (keys, 3, groups, HEAD_DIM)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [(1, 1), (9, 9), (1, 9), (3, 9)],
    ids=["one token", "whole", "decode one", "decode several"],
)
def test_output_and_gradients(attention: Callable, queries: int, keys: int, groups: int) -> None:
    inputs = tensors(queries, keys, 4, groups)
    copies = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output, expected = attention(*inputs), naive(*copies)
    assert output.shape == (queries, 3, 4 * HEAD_DIM)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, copy in zip(inputs, copies, strict=True):
        torch.testing.assert_close(tensor.grad, copy.grad, rtol=1e-4, atol=1e-5)


def test_no_query_sees_what_comes_after_it(attention: Callable) -> None:
    query, key, value = (tensor.detach() for tensor in tensors(8, 8, 4, 2))
    before = attention(query, key, value)
    key[5:] += 1.0
    value[5:] += 1.0
    after = attention(query, key, value)
    assert torch.equal(before[:5], after[:5])
    assert not torch.isclose(before[5:], after[5:]).all(-1).any()


def test_a_cache_gives_what_the_whole_sequence_gives(attention: Callable) -> None:
    query, key, value = (tensor.detach() for tensor in tensors(12, 12, 4, 2))
    whole = attention(query, key, value)
    pieces = [
        attention(query[start:stop], key[:stop], value[:stop]) for start, stop in [(0, 5), (5, 6), (6, 10), (10, 12)]
    ]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-6)


def test_bf16_stays_near_fp32(attention: Callable) -> None:
    inputs = [tensor.detach() for tensor in tensors(32, 32, 4, 2)]
    output = attention(*[tensor.bfloat16() for tensor in inputs])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), attention(*inputs), rtol=0.05, atol=0.05)
