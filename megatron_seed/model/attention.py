"""Core attention, rotary positions included, on `scaled_dot_product_attention`: no [sequence, sequence] tensor.

One code path serves plain sequences, sequences split over context-parallel ranks, documents that must not see each
other, and decoding with a cache: each is a list of segments, a run of queries and the run of keys that ends with them.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_seed.model.context import gather_sequence, ranges_of
from megatron_seed.model.rotary import Frequencies, rotate

_ROWS = 512
"""Rows of a mask, where one is needed: memory grows with the sequence, not with its square."""


class Segment(NamedTuple):
    """Queries [start, stop) of this rank attend to keys [first, last) of the whole sequence, causally, ends aligned."""

    start: int
    stop: int
    first: int
    last: int


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
        *,
        frequencies: Frequencies,
        **kwargs: Any,
    ) -> None:
        super().__init__(config=config)
        self.frequencies = frequencies
        self.context_group = pg_collection.cp if pg_collection else parallel_state.get_context_parallel_group()
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
        when a cache comes before). Packed documents (`thd`) come without the batch dimension; their `cu_seqlens_q`
        [documents + 1] count over the whole sequence. Returns [queries, batch, heads x head_dim], or without batch.
        """
        packed = query.dim() == 3
        if packed:
            query, key, value = query[:, None], key[:, None], value[:, None]
        rank, size = self.context_group.rank(), self.context_group.size()
        queries, keys = len(query), len(key)
        ends = tuple(packed_seq_params.cu_seqlens_q.tolist()) if packed_seq_params else (0, keys * size)
        if queries == keys:
            places = _positions(ends, rank, size, query.device)
            query, key = rotate(query, places, self.frequencies), rotate(key, places, self.frequencies)
            key, value = gather_sequence(key, self.context_group), gather_sequence(value, self.context_group)
            segments = _segments(ends, rank, size)
        else:
            query = rotate(query, slice(keys - queries, keys), self.frequencies)
            key = rotate(key, slice(0, keys), self.frequencies)
            segments = (Segment(0, queries, 0, keys),)
        output = self._attend(query, key, value, segments)
        return output[:, 0] if packed else output

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: tuple[Segment, ...]
    ) -> torch.Tensor:
        parts = [
            self._segment(query[start:stop], key[first:last], value[first:last])
            for start, stop, first, last in segments
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _segment(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[queries, batch, heads x head_dim] of one segment."""
        queries, keys = len(query), len(key)
        if queries == keys or queries == 1:
            return self._sdpa(query, key, value, None, causal=queries > 1)
        rows = []
        for start in range(0, queries, _ROWS):
            stop = min(start + _ROWS, queries)
            last = keys - queries + stop
            mask = torch.ones(stop - start, last, dtype=torch.bool, device=query.device)
            mask = mask.tril(diagonal=last - (stop - start))
            rows.append(self._sdpa(query[start:stop], key[:last], value[:last], mask, causal=False))
        return torch.cat(rows)

    def _sdpa(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor:
        output = F.scaled_dot_product_attention(
            *(tensor.permute(1, 2, 0, 3) for tensor in (query, key, value)),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return output.permute(2, 0, 1, 3).flatten(2)


@functools.lru_cache(maxsize=16)
def _segments(ends: tuple[int, ...], rank: int, size: int) -> tuple[Segment, ...]:
    """Each document's part in each of this rank's pieces of the sequence."""
    found, held = [], 0
    for low, high in ranges_of(rank, size, ends[-1]):
        for first, last in itertools.pairwise(ends):
            start, stop = max(low, first), min(high, last)
            if start < stop:
                found.append(Segment(held + start - low, held + stop - low, first, stop))
        held += high - low
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _positions(ends: tuple[int, ...], rank: int, size: int, device: torch.device) -> slice | torch.Tensor:
    """Position of each of this rank's tokens in its document."""
    if len(ends) == 2 and size == 1:
        return slice(0, ends[1])
    starts = torch.tensor(ends[:-1])
    whole = torch.arange(ends[-1]) - torch.repeat_interleave(starts, torch.tensor(ends).diff())
    return torch.cat([whole[low:high] for low, high in ranges_of(rank, size, ends[-1])]).to(device)
