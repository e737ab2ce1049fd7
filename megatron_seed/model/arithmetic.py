"""Parameters and floating-point operations of a model, counted from its shape."""

from __future__ import annotations

import math

from megatron_seed.config.schema import ModelConfig


def layer_parameter_count(config: ModelConfig) -> int:
    """Parameters of one layer: matrices, norms and biases."""
    biases = _qkv_rows(config) if config.qkv_bias else 0
    head_norms = 2 * config.head_dim if config.qk_norm else 0
    return _layer_matrices(config) + 2 * config.hidden_size + biases + head_norms


def embedding_parameter_count(config: ModelConfig) -> int:
    """Parameters of the embedding and of the head, one matrix where they are tied; without the vocabulary's padding."""
    table = config.vocab_size * config.hidden_size
    if config.head == "score":
        return table + config.hidden_size + 1
    return (1 if config.tied_embeddings else 2) * table


def parameter_count(config: ModelConfig) -> int:
    """Parameters, without the padding of the vocabulary."""
    layers = config.num_layers * layer_parameter_count(config)
    return layers + config.hidden_size + embedding_parameter_count(config)


def flops_per_token(config: ModelConfig, sequence_length: int, *, causal: bool = True) -> float:
    """Forward and backward of one token, multiply and add counted as two (PaLM, appendix B).

    Six per parameter of a matrix product (the embedding look-up is none), plus attention scores and values: 12 x layers
    x heads x head_dim x sequence, halved when only the causal half is counted.
    """
    outputs = 1 if config.head == "score" else config.vocab_size
    matrices = config.num_layers * _layer_matrices(config) + outputs * config.hidden_size
    attention = 12 * config.num_layers * config.num_attention_heads * config.head_dim * sequence_length
    return 6.0 * matrices + attention * (0.5 if causal else 1.0)


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """A loss per UTF-8 byte of text, which compares models with different tokenizers."""
    return nats_per_token / math.log(2) / bytes_per_token


def _layer_matrices(config: ModelConfig) -> int:
    """Parameters of a layer's matrices: attention's four, gate, up and down."""
    attention = _qkv_rows(config) + config.num_attention_heads * config.head_dim
    return config.hidden_size * (attention + 3 * config.ffn_hidden_size)


def _qkv_rows(config: ModelConfig) -> int:
    return (config.num_attention_heads + 2 * config.num_query_groups) * config.head_dim
