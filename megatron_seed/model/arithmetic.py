"""Parameters and floating-point operations of a model, counted from its shape."""

from __future__ import annotations

from megatron_seed.config.schema import ModelConfig


def parameter_count(config: ModelConfig) -> int:
    """Parameters, without the padding of the vocabulary."""
    hidden = config.hidden_size
    heads = config.num_attention_heads + 2 * config.num_query_groups
    attention = heads * config.head_dim * hidden + config.num_attention_heads * config.head_dim * hidden
    layer = attention + 3 * hidden * config.ffn_hidden_size + 2 * hidden
    embeddings = (1 if config.tied_embeddings else 2) * config.vocab_size * hidden
    return config.num_layers * layer + hidden + embeddings


def flops_per_token(config: ModelConfig, sequence_length: int, *, causal: bool = True) -> float:
    """Forward and backward of one token, multiply and add counted as two (PaLM, appendix B).

    Six per parameter of a matrix product (the embedding look-up is none), plus attention scores and values: 12 x layers
    x heads x head_dim x sequence, halved when only the causal half is counted.
    """
    matrices = parameter_count(config) - (2 * config.num_layers + 1) * config.hidden_size
    if not config.tied_embeddings:
        matrices -= config.vocab_size * config.hidden_size
    attention = 12 * config.num_layers * config.num_attention_heads * config.head_dim * sequence_length
    return 6.0 * matrices + attention * (0.5 if causal else 1.0)
