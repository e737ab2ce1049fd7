"""Counts of parameters and operations."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig
from megatron_seed.model.arithmetic import flops_per_token, parameter_count


@pytest.mark.parametrize(("preset", "billions"), [("seed_coder_8b", 8.25), ("seed_coder_8b_report", 9.12)])
def test_the_two_shapes_of_the_8b_model(preset: str, billions: float) -> None:
    assert parameter_count(ModelConfig(**PRESETS[preset])) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("tied", [False, True])
def test_counts_equal_those_of_transformers(tied: bool) -> None:
    config = ModelConfig(**{**PRESETS["seed_coder_tiny"], "tied_embeddings": tied})
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_query_groups,
            vocab_size=config.vocab_size,
            tie_word_embeddings=tied,
        )
    )
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


def test_operations_follow_the_published_formula() -> None:
    config = ModelConfig(**PRESETS["seed_coder_8b"])
    length = 8192
    attention = 12 * 32 * 4096 * length
    matrices = 32 * (4096 * 128 * (32 + 16) + 4096 * 4096 + 3 * 4096 * 14336) + 155_136 * 4096
    assert flops_per_token(config, length, causal=False) == 6 * matrices + attention
    assert flops_per_token(config, length) == 6 * matrices + attention / 2


def test_biases_and_norms_of_heads_are_parameters_but_no_products() -> None:
    plain = ModelConfig(**PRESETS["seed_coder_tiny"])
    both = plain.model_copy(update={"qkv_bias": True, "qk_norm": True})
    layers, heads, head_dim = plain.num_layers, plain.num_attention_heads + 2 * plain.num_query_groups, plain.head_dim
    assert parameter_count(both) - parameter_count(plain) == layers * (heads * head_dim + 2 * head_dim)
    assert flops_per_token(both, 128) == flops_per_token(plain, 128)
