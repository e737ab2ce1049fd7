"""Rotary positions against transformers' own, forward and backward, of every kind of scaling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig
from megatron_seed.model.rotary import attention_scale, rotary_frequencies, rotate

BASE = 500_000.0
HEAD_DIM = 16
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}


def ours(**scaling: Any) -> ModelConfig:
    return ModelConfig(
        **{**PRESETS["seed_coder_tiny"], "rotary_base": BASE, "head_dim": HEAD_DIM, "rope_scaling": scaling or None}
    )


def theirs(rope_type: str = "default", **settings: Any) -> LlamaRotaryEmbedding:
    parameters = {"rope_type": rope_type, "rope_theta": BASE, **settings}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=16_384, rope_parameters=parameters
    )
    return LlamaRotaryEmbedding(config)


def test_rotation_equals_transformers_with_gradients_and_offsets() -> None:
    torch.manual_seed(0)
    cos, sin = theirs()(torch.zeros(1), torch.arange(32)[None])
    one = torch.randn(20, 2, 4, HEAD_DIM, requires_grad=True)  # [seq, batch, heads, head_dim]
    other = one.detach().clone().requires_grad_()
    expected, _ = apply_rotary_pos_emb(other.permute(1, 2, 0, 3), other.permute(1, 2, 0, 3), cos[:, 12:], sin[:, 12:])
    result = rotate(one, slice(12, 32), rotary_frequencies(ours())).permute(1, 2, 0, 3)
    torch.testing.assert_close(result, expected)
    weights = torch.randn_like(expected)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("scaling", "rope_type", "settings"),
    [
        ({}, "default", {}),
        ({"kind": "linear", "factor": 4.0}, "linear", {"factor": 4.0}),
        (
            {
                "kind": "llama3",
                "factor": 8.0,
                "low_frequency_factor": 1.0,
                "high_frequency_factor": 4.0,
                "original_max_sequence_length": 8192,
            },
            "llama3",
            LLAMA3,
        ),
        ({"kind": "yarn", "factor": 4.0, "original_max_sequence_length": 4096}, "yarn", YARN),
        (
            {
                "kind": "yarn",
                "factor": 4.0,
                "original_max_sequence_length": 4096,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 1.5,
            },
            "yarn",
            {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5},
        ),
    ],
)
def test_frequencies_and_scale_are_those_of_transformers(scaling: dict, rope_type: str, settings: dict) -> None:
    config, embedding = ours(**scaling), theirs(rope_type, **settings)
    frequencies = torch.tensor(rotary_frequencies(config))
    torch.testing.assert_close(frequencies, embedding.inv_freq, rtol=1e-6, atol=0)
    assert scaling == {} or not torch.allclose(frequencies, torch.tensor(rotary_frequencies(ours())))
    # transformers lengthens queries and keys by a factor each, we multiply their products.
    scale = attention_scale(config) or 1 / math.sqrt(HEAD_DIM)
    assert scale * math.sqrt(HEAD_DIM) == pytest.approx(embedding.attention_scaling**2)
