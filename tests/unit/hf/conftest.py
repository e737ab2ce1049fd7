"""Tiny random Llamas, checkpoints of them in any chunks, and a tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.hf.architectures import architecture_of
from megatron_seed.hf.slices import checkpoint_shape
from megatron_seed.hf.torch_dist import Part, write_torch_dist
from tokenizer.special import special_strings

VOCAB_SIZE = 400


@pytest.fixture
def llama() -> Callable[..., LlamaForCausalLM]:
    """Makes a random model of three layers, fp32; keywords change its LlamaConfig."""

    def make(**changes: object) -> LlamaForCausalLM:
        values = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            **changes,
        }
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**values)).eval()

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


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 383 ids: the special tokens, then the bytes."""
    specials = special_strings()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    directory = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return directory
