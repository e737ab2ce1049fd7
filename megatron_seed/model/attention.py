"""Core attention, rotary positions included, on `scaled_dot_product_attention`: no [sequence, sequence] tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_seed.model.rotary import rotate


class SdpaCoreAttention(MegatronModule):
    """Drop-in for megatron-core's DotProductAttention: causal self-attention with grouped queries.

    It rotates queries and keys itself, which megatron-core's unfused code does in three times the passes over memory;
    the model around it has `position_embedding_type="none"`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        rotary_base: float = 10_000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(config=config)
        self.rotary_base = rotary_base
        self.scale = 1.0 / math.sqrt(config.kv_channels) if softmax_scale is None else softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attend causally, the last query to the last key.

        query: [queries, batch, heads, head_dim]; key, value: [keys, batch, groups, head_dim] with keys >= queries (more
        when a cache comes before). Returns [queries, batch, heads x head_dim].
        """
        queries, batch, heads, head_dim = query.shape
        keys = len(key)
        query = rotate(query, slice(keys - queries, keys), self.rotary_base)
        key = rotate(key, slice(0, keys), self.rotary_base)
        value = value.permute(1, 2, 0, 3)
        causal = queries == keys and queries > 1
        mask = None
        if not causal and queries > 1:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(diagonal=keys - queries)
        output = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=heads != key.shape[1],
        )
        return output.permute(2, 0, 1, 3).reshape(queries, batch, heads * head_dim)
