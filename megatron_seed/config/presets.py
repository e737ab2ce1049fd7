"""Model shapes by name. Sources: the Seed-Coder report (section 2.3) and its released 8B weights."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

# rotary_base, norm_epsilon and init_std are not in the report; they are known from a sibling release (inferred).
_SEED_CODER_8B = {
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "head_dim": 128,
    "vocab_size": 155_136,
    "max_sequence_length": 32_768,
    "rotary_base": 500_000.0,
    "norm_epsilon": 1e-6,
    "init_std": 0.0099,
}


def _small(num_layers: int, hidden_size: int, ffn_hidden_size: int, heads: int, groups: int, **more: Any) -> dict:
    return {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "ffn_hidden_size": ffn_hidden_size,
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "head_dim": hidden_size // heads,
        "init_std": 0.02,
        **more,
    }


PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        # The released weights: 32 layers.
        "seed_coder_8b": {"num_layers": 32, **_SEED_CODER_8B},
        # The report's text: 36 layers.
        "seed_coder_8b_report": {"num_layers": 36, **_SEED_CODER_8B},
        # The quality scorer's backbone: "a 1.3B model of Llama 2 structure"; the shape is ours.
        "llama2_1b3": _small(
            24, 2048, 5504, 16, 16, vocab_size=32_000, max_sequence_length=4096, rotary_base=1e4, norm_epsilon=1e-5
        ),
        # Small ones for a CPU and for tests; all ours.
        "seed_coder_100m": _small(12, 640, 1792, 10, 5, vocab_size=32_000, max_sequence_length=2048),
        "seed_coder_10m": _small(6, 256, 768, 8, 4, vocab_size=8192, max_sequence_length=1024),
        "seed_coder_tiny": _small(4, 64, 128, 4, 2, vocab_size=128, max_sequence_length=128),
    }
)
