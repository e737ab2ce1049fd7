"""Rotary positions against transformers' own, forward and backward."""

from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from megatron_seed.model.rotary import rotate

BASE = 500_000.0


def test_rotation_equals_transformers_with_gradients_and_offsets() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": BASE}
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(32)[None])
    ours = torch.randn(20, 2, 4, 16, requires_grad=True)  # [seq, batch, heads, head_dim]
    theirs = ours.detach().clone().requires_grad_()
    positions = slice(12, 32)
    expected, _ = apply_rotary_pos_emb(theirs.permute(1, 2, 0, 3), theirs.permute(1, 2, 0, 3), cos[:, 12:], sin[:, 12:])
    result = rotate(ours, positions, BASE).permute(1, 2, 0, 3)
    torch.testing.assert_close(result, expected)
    weights = torch.randn_like(expected)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
