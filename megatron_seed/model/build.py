"""From a ModelConfig to megatron-core modules, with the same parameters whatever the layout."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy
from megatron_seed.model.initialise import initialise, mark_sharded
from megatron_seed.model.spec import SpecName, choose_spec, layer_spec
from megatron_seed.runtime import device

Precision = Literal["fp32", "bf16"]


class SeedModel(GPTModel):
    """megatron-core's GPTModel whose loss ignores the padded rows of the vocabulary."""

    def __init__(self, *args: object, real_vocab_size: int, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.real_vocab_size = real_vocab_size

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats, [batch, seq]. labels: [batch, seq]; logits: [seq, batch, this rank's vocabulary]."""
        loss = vocab_parallel_cross_entropy(logits, labels.t(), self.real_vocab_size)
        return loss.t()


def build_model(
    config: ModelConfig,
    layout: LayoutConfig,
    precision: Precision,
    *,
    seed: int | None = None,
    spec: SpecName | None = None,
) -> list[SeedModel]:
    """Build this rank's part of the model, on its device, one chunk per pipeline stage it holds.

    Process groups must be there. With a seed the parameters are initialised, keyed by seed and parameter name; without
    one they are left as they come, to be loaded.
    """
    core = transformer_config(config, layout, precision)
    spec = spec or choose_spec()
    chunk = SeedModel(
        config=core,
        transformer_layer_spec=layer_spec(spec, core, config.rotary_base),
        vocab_size=config.padded_vocab_size,
        real_vocab_size=config.vocab_size,
        max_sequence_length=config.max_sequence_length,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=config.tied_embeddings,
        # The sdpa spec's attention applies rotary positions itself.
        position_embedding_type="rope" if spec == "te" else "none",
        rotary_base=config.rotary_base,
    )
    chunk = chunk.to(device.device(torch.cuda.current_device() if device.has_gpu() else 0))
    if precision == "bf16":
        chunk = chunk.bfloat16()
    mark_sharded(chunk)
    if seed is not None:
        initialise(chunk, config, seed)
    return [chunk]


def transformer_config(config: ModelConfig, layout: LayoutConfig, precision: Precision) -> TransformerConfig:
    """megatron-core's configuration. Only what differs from its defaults, and only what 0.16 to 0.19 share."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    gpu = device.has_gpu()
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
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=config.init_std,
        tensor_model_parallel_size=layout.tensor_parallel,
        pipeline_model_parallel_size=layout.pipeline_parallel,
        sequence_parallel=layout.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision == "bf16",
        perform_initialization=False,
        use_cpu_initialization=not gpu,
        calculate_per_token_loss=True,
        bias_activation_fusion=gpu,
        bias_dropout_fusion=gpu,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        batch_p2p_comm=gpu,
    )
