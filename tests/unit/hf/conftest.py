"""Tiny random models of every architecture, and checkpoints of them in any chunks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.hf.architectures import architecture_of
from megatron_seed.hf.slices import checkpoint_shape
from megatron_seed.hf.torch_dist import Part, write_torch_dist

VOCAB_SIZE = 400


ROPE = {
    "default": {"rope_theta": 500_000.0},
    "linear": {"rope_theta": 1e4, "factor": 2.0},
    "llama3": {
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128},
}
MODELS = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}


@pytest.fixture
def hf_model() -> Callable[..., PreTrainedModel]:
    """Makes a random model of three layers, fp32, norms and biases random too; keywords change its config."""

    def make(kind: str = "llama", rope: str = "default", **changes: object) -> PreTrainedModel:
        values = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": rope, **ROPE[rope]},
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            # Qwen2's is the quotient of the two above.
            **({} if kind == "qwen2" else {"head_dim": 16}),
            **changes,
        }
        torch.manual_seed(0)
        model = MODELS[kind](MODELS[kind].config_class(**values)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.copy_(1 + torch.randn_like(parameter) / 4)
        return model

    return make


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(
        num_layers=4,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=8,
        vocab_size=VOCAB_SIZE,
        max_sequence_length=256,
    )


@pytest.fixture
def random_tensors() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes checkpoint tensors of a config, by key."""

    def make(config: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        rows = architecture_of(config).rows(config)
        shapes = {row.megatron: checkpoint_shape(row, config) for row in rows}
        return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}

    return make


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """Writes tensors as a checkpoint, those in `splits` layer by layer and in that many pieces."""

    def write(
        directory: Path,
        config: ModelConfig,
        tensors: Mapping[str, torch.Tensor],
        splits: Mapping[str, int] | None = None,
    ) -> Path:
        directory.mkdir(parents=True)
        parts = [part for key, tensor in tensors.items() for part in pieces(key, tensor, (splits or {}).get(key))]

        def make(part: Part) -> torch.Tensor:
            where = tuple(slice(start, start + size) for start, size in zip(part.offsets, part.sizes, strict=True))
            return tensors[part.key][where].clone()

        write_torch_dist(directory, parts, next(iter(tensors.values())).dtype, make, {})
        (directory / "model.yaml").write_text(dump_recipe(config))
        return directory

    return write


def pieces(key: str, tensor: torch.Tensor, count: int | None) -> list[Part]:
    """The whole tensor as one chunk, or chunks as tensor parallelism by `count` makes them, layer by layer."""
    shape = tuple(tensor.shape)
    if count is None:
        return [Part(key, shape, (0,) * len(shape), shape)]
    axis = 1 if "layers" in key else 0
    leading = [(layer,) for layer in range(shape[0])] if axis else [()]
    size = shape[axis] // count
    rest = shape[axis + 1 :]
    return [
        Part(key, shape, (*layer, number * size, *(0,) * len(rest)), (*(1 for _ in layer), size, *rest))
        for layer in leading
        for number in range(count)
    ]
