"""Which checkpoint tensor becomes which Hugging Face tensors: one row for each kind of parameter.

A row holds for every layer at once: in the checkpoint the kind is one tensor with a layer axis in front, on the Hugging
Face side `{layer}` stands in the name. Adding an architecture means adding rows (and transforms, if it packs
parameters in a new way).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from megatron_seed.config.schema import ModelConfig

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Transform:
    """How one checkpoint tensor splits into Hugging Face tensors, and its exact inverse. Both are pure."""

    split: Callable[[torch.Tensor, ModelConfig], Tensors]
    """Picks rows (entries along the first dimension), whatever is in them: so a part is read by itself."""
    join: Callable[[Sequence[torch.Tensor], ModelConfig], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One kind of parameter."""

    megatron: str
    hf: tuple[str, ...]
    dims: tuple[str, ...]
    """Names of the dimensions in the checkpoint, without the layer axis; sizes from `dimensions`."""
    transform: Transform

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.hf[0]

    def shape(self, config: ModelConfig) -> Shape:
        """In the checkpoint, without the layer axis and without padded vocabulary rows."""
        sizes = dimensions(config)
        return tuple(sizes[name] for name in self.dims)

    def hf_names(self, layer: int | None) -> tuple[str, ...]:
        return tuple(name.format(layer=layer) for name in self.hf)

    def hf_shapes(self, config: ModelConfig) -> tuple[Shape, ...]:
        parts = self.transform.split(torch.empty(self.shape(config), device="meta"), config)
        return tuple(tuple(part.shape) for part in parts)

    def runs(self, config: ModelConfig) -> tuple[tuple[range, ...], ...]:
        """For each Hugging Face tensor, the runs of this tensor's rows that make it up."""
        parts = self.transform.split(torch.arange(self.shape(config)[0]), config)
        return tuple(tuple(_runs(part.tolist())) for part in parts)


def dimensions(config: ModelConfig) -> dict[str, int]:
    """Sizes of the named dimensions."""
    return {
        "vocab": config.vocab_size,
        "hidden": config.hidden_size,
        "qkv": (config.num_attention_heads + 2 * config.num_query_groups) * config.head_dim,
        "attention": config.num_attention_heads * config.head_dim,
        "gate_up": 2 * config.ffn_hidden_size,
        "ffn": config.ffn_hidden_size,
        "head": config.head_dim,
    }


def _split_qkv(qkv: torch.Tensor, config: ModelConfig) -> Tensors:
    """[(heads + 2 groups) x head_dim, ...], per group its queries, its key, its value, to query, key, value."""
    groups, rest = config.num_query_groups, qkv.shape[1:]
    heads_per_group = config.num_attention_heads // groups
    grouped = qkv.reshape(groups, heads_per_group + 2, config.head_dim, *rest)
    query, key, value = grouped.split([heads_per_group, 1, 1], dim=1)
    return tuple(part.reshape(-1, *rest) for part in (query, key, value))


def _join_qkv(parts: Sequence[torch.Tensor], config: ModelConfig) -> torch.Tensor:
    rest = parts[0].shape[1:]
    grouped = [part.reshape(config.num_query_groups, -1, config.head_dim, *rest) for part in parts]
    return torch.cat(grouped, dim=1).reshape(-1, *rest)


def _runs(rows: Sequence[int]) -> Iterator[range]:
    starts = [place for place in range(len(rows)) if place == 0 or rows[place] != rows[place - 1] + 1]
    for start, stop in itertools.pairwise([*starts, len(rows)]):
        yield range(rows[start], rows[stop - 1] + 1)


IDENTITY = Transform(split=lambda tensor, config: (tensor,), join=lambda parts, config: parts[0])
GATE_UP = Transform(split=lambda tensor, config: tensor.chunk(2), join=lambda parts, config: torch.cat(tuple(parts)))
QKV = Transform(split=_split_qkv, join=_join_qkv)

_LAYER = "decoder.layers."
_HF_LAYER = "model.layers.{layer}."

EMBEDDING = Row("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), ("vocab", "hidden"), IDENTITY)
FINAL_NORM = Row("decoder.final_layernorm.weight", ("model.norm.weight",), ("hidden",), IDENTITY)
HEAD = Row("output_layer.weight", ("lm_head.weight",), ("vocab", "hidden"), IDENTITY)


def _row(megatron: str, hf: str | Sequence[str], dims: Sequence[str], transform: Transform = IDENTITY) -> Row:
    """A kind of parameter that every layer has."""
    names = (hf,) if isinstance(hf, str) else hf
    return Row(_LAYER + megatron, tuple(_HF_LAYER + name for name in names), tuple(dims), transform)


_QKV = [f"self_attn.{part}_proj" for part in ("q", "k", "v")]
_QKV_BIAS = _row("self_attention.linear_qkv.bias", [f"{name}.bias" for name in _QKV], ["qkv"], QKV)
_QK_NORMS = (
    _row("self_attention.q_layernorm.weight", "self_attn.q_norm.weight", ["head"]),
    _row("self_attention.k_layernorm.weight", "self_attn.k_norm.weight", ["head"]),
)

LLAMA_LAYER = (
    _row("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight", ["hidden"]),
    _row("self_attention.linear_qkv.weight", [f"{name}.weight" for name in _QKV], ["qkv", "hidden"], QKV),
    _row("self_attention.linear_proj.weight", "self_attn.o_proj.weight", ["hidden", "attention"]),
    _row("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm.weight", ["hidden"]),
    _row("mlp.linear_fc1.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], ["gate_up", "hidden"], GATE_UP),
    _row("mlp.linear_fc2.weight", "mlp.down_proj.weight", ["hidden", "ffn"]),
)
QWEN2_LAYER = (*LLAMA_LAYER, _QKV_BIAS)
QWEN3_LAYER = (*LLAMA_LAYER, *_QK_NORMS)


def rows_of(layer_rows: Sequence[Row], config: ModelConfig) -> tuple[Row, ...]:
    """All rows of a model: the head has one unless it is tied to the embedding."""
    return (EMBEDDING, *layer_rows, FINAL_NORM, *(() if config.tied_embeddings else (HEAD,)))


def places(rows: Sequence[Row], config: ModelConfig) -> Iterator[tuple[Row, int | None]]:
    """Every (row, layer) of a model in the order a Hugging Face model lists them; layer None outside of the layers."""
    for per_layer, group in itertools.groupby(rows, key=lambda row: row.per_layer):
        members = tuple(group)
        for layer in range(config.num_layers) if per_layer else (None,):
            yield from ((row, layer) for row in members)
