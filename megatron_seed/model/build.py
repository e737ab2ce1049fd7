"""From a ModelConfig to megatron-core modules, with the same parameters whatever the layout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.model.chunked_loss import chunked_head_loss
from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy
from megatron_seed.model.initialise import initialise, mark_sharded
from megatron_seed.model.rotary import attention_scale, rotary_frequencies
from megatron_seed.model.score import ScoreModel
from megatron_seed.model.spec import SpecName, choose_spec, layer_spec
from megatron_seed.runtime import device

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """How the model computes; none of it changes what is computed, but for rounding."""

    precision: Precision = "fp32"
    fp8: Literal["off", "current", "delayed"] = "off"
    fused_weight_gradient: bool = False
    loss_chunk_tokens: int = 0
    deterministic: bool = False
    own_attention: bool = False
    """The core of attention is ours also where TransformerEngine is there."""


class SeedModel(GPTModel):
    """megatron-core's GPTModel whose loss ignores the padded rows of the vocabulary and may come in chunks."""

    def __init__(self, *args: Any, real_vocab_size: int, loss_chunk_tokens: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.real_vocab_size = real_vocab_size
        self.loss_chunk_tokens = loss_chunk_tokens

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats, [batch, seq]. labels: [batch, seq]; logits: [seq, batch, this rank's vocabulary]."""
        return vocab_parallel_cross_entropy(logits, labels.t(), self.real_vocab_size).t()

    def _postprocess(self, hidden_states: torch.Tensor, *args: Any, labels: Any = None, **kwargs: Any) -> torch.Tensor:
        """megatron-core's step from hidden states [seq, batch, hidden] to loss or logits."""
        if not (self.post_process and labels is not None and self.loss_chunk_tokens):
            return super()._postprocess(hidden_states, *args, labels=labels, **kwargs)
        tied = self.share_embeddings_and_output_weights
        loss = chunked_head_loss(
            hidden_states,
            self.shared_embedding_or_output_weight() if tied else self.output_layer.weight,
            labels.t(),
            self.real_vocab_size,
            self.loss_chunk_tokens,
            self.config.sequence_parallel,
            self.config.gradient_accumulation_fusion,
        )
        return loss.t()


Chunk = SeedModel | ScoreModel


def build_model(
    config: ModelConfig,
    layout: LayoutConfig,
    compute: Compute | Precision = "fp32",
    *,
    seed: int | None = None,
    spec: SpecName | None = None,
) -> list[Chunk]:
    """Build this rank's part of the model, on its device, one chunk per (virtual) pipeline stage it holds.

    Process groups must be there. With a seed the parameters are initialised, keyed by seed and parameter name; without
    one they are left as they come, to be loaded.
    """
    compute = Compute(compute) if isinstance(compute, str) else compute
    core = transformer_config(config, layout, compute)
    stages = range(layout.virtual_pipeline) if layout.virtual_pipeline > 1 else [None]
    chunks = [_build_chunk(config, core, compute, spec or choose_spec(), stage) for stage in stages]
    for chunk in chunks:
        mark_sharded(chunk)
        if seed is not None:
            initialise(chunk, config, seed)
    return chunks


def _build_chunk(
    config: ModelConfig, core: TransformerConfig, compute: Compute, spec: SpecName, stage: int | None
) -> Chunk:
    rotary = rotary_frequencies(config)
    theirs = spec == "te" and not compute.own_attention
    chunk = _kind(config, compute)(
        config=core,
        transformer_layer_spec=layer_spec(spec, core, rotary, stage, compute.own_attention),
        vocab_size=config.padded_vocab_size,
        max_sequence_length=config.max_sequence_length,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
        share_embeddings_and_output_weights=config.tied_embeddings and config.head == "next_token",
        # Our attention applies rotary positions itself.
        position_embedding_type="rope" if theirs else "none",
        rotary_base=config.rotary_base,
        vp_stage=stage,
    )
    if theirs:
        # megatron-core's own scaling knows one of the kinds, and that with fixed settings.
        chunk.rotary_pos_emb.inv_freq = torch.tensor(rotary).to(chunk.rotary_pos_emb.inv_freq)
    chunk = chunk.to(device.device(torch.cuda.current_device() if device.has_gpu() else 0))
    return chunk.bfloat16() if compute.precision == "bf16" else chunk


def _kind(config: ModelConfig, compute: Compute) -> Callable[..., Chunk]:
    """The model's class, with what it alone takes."""
    if config.head == "score":
        return ScoreModel
    return functools.partial(SeedModel, real_vocab_size=config.vocab_size, loss_chunk_tokens=compute.loss_chunk_tokens)


def transformer_config(config: ModelConfig, layout: LayoutConfig, compute: Compute) -> TransformerConfig:
    """megatron-core's configuration. Only what differs from its defaults, and only what 0.16 to 0.19 share."""
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    gpu = device.has_gpu()
    interleaved = layout.virtual_pipeline > 1
    return TransformerConfig(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        kv_channels=config.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=config.norm_epsilon,
        add_bias_linear=False,
        add_qkv_bias=config.qkv_bias,
        qk_layernorm=config.qk_norm,
        softmax_scale=attention_scale(config),
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=config.init_std,
        tensor_model_parallel_size=layout.tensor_parallel,
        pipeline_model_parallel_size=layout.pipeline_parallel,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if interleaved else None,
        context_parallel_size=layout.context_parallel,
        sequence_parallel=layout.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=compute.precision == "bf16",
        fp8="hybrid" if compute.fp8 != "off" else None,
        fp8_recipe="tensorwise" if compute.fp8 == "current" else "delayed",
        perform_initialization=False,
        use_cpu_initialization=not gpu,
        calculate_per_token_loss=True,
        bias_activation_fusion=gpu,
        bias_dropout_fusion=gpu,
        apply_rope_fusion=device.has_transformer_engine(),
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=compute.fused_weight_gradient,
        deterministic_mode=compute.deterministic,
        # Interleaved stages send to themselves in a ring; batched sends there give wrong gradients without an error.
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=gpu and not interleaved,
        **_recompute(layout),
    )


def _recompute(layout: LayoutConfig) -> dict[str, Any]:
    if layout.recompute == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {"recompute_granularity": "selective"} if layout.recompute == "selective" else {}
