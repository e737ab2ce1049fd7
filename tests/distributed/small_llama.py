"""A small model as Megatron-LM's arguments name it."""

VOCABULARY = 128
LENGTH = 32
BATCH = 4
RATE = 3e-3
ARGS = {
    "num_layers": 3,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "group_query_attention": True,
    "kv_channels": 16,
    "norm_epsilon": 1e-6,
    "rotary_base": 10_000,
    "rotary_percent": 1.0,
    "normalization": "RMSNorm",
    "swiglu": True,
    "position_embedding_type": "rope",
    "add_bias_linear": False,
    "untie_embeddings_and_output_weights": True,
    "num_experts": None,
    "vocab_size": VOCABULARY,
}
