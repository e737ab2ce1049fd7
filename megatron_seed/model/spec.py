"""Which modules a layer is made of: TransformerEngine's where it runs, torch's own elsewhere."""

from __future__ import annotations

from typing import Any, Literal

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_seed.model.attention import SdpaCoreAttention
from megatron_seed.model.rotary import Frequencies
from megatron_seed.runtime import device

SpecName = Literal["te", "sdpa"]


def choose_spec() -> SpecName:
    """`te` where TransformerEngine and a GPU are there, else `sdpa`."""
    return "te" if device.has_transformer_engine() else "sdpa"


def layer_spec(
    name: SpecName,
    config: TransformerConfig,
    frequencies: Frequencies,
    virtual_stage: int | None = None,
    own_attention: bool = False,
) -> ModuleSpec | TransformerBlockSubmodules:
    """What GPTModel takes as `transformer_layer_spec`. Both save their parameters under the same names.

    With `own_attention` the core of attention, rotary positions included, is ours also in the `te` spec.
    """
    core = ModuleSpec(module=SdpaCoreAttention, params={"frequencies": frequencies})
    if name == "te":
        layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        if own_attention:
            layer.submodules.self_attention.submodules.core_attention = core
        return layer
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = core
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage=virtual_stage), layer_norm=RMSNorm
    )


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, which unlike megatron-core's wrapper may stand in a sequence-parallel region.

    It works on each token alone, so all it takes is the flag by which megatron-core sums the weight's gradient over
    the tensor-parallel ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel
