"""Initial parameters as a function of (seed, parameter name): the same model whatever the layout."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes

from megatron_seed.config.schema import ModelConfig


def initialise(chunk: GPTModel, config: ModelConfig, seed: int) -> None:
    """Fill a chunk in place: norms with one, biases with zero, the rest normal with init_std, scaled down by
    sqrt(2 x layers) for the two projections that write to the residual stream (as Megatron-LM does)."""
    residual_std = config.init_std / math.sqrt(2 * config.num_layers)
    with torch.no_grad():
        for name, parameter in named_global_parameters(chunk):
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
                continue
            std = residual_std if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else config.init_std
            # Tied heads on another stage than the embedding are copies of it.
            key = "embedding.word_embeddings.weight" if config.tied_embeddings and "output_layer" in name else name
            parameter.copy_(shard_of(name, _normal(key, parameter, std, seed)))


def mark_sharded(chunk: GPTModel) -> None:
    """Tell megatron-core which parameters tensor parallelism splits; it says so itself only when it initialises them.

    The gradient norm counts each split parameter on every rank and the others once.
    """
    for name, parameter in chunk.named_parameters():
        dimension = shard_dimension(name)
        if dimension is not None and not getattr(parameter, "tensor_model_parallel", False):
            for attribute in ("tensor_model_parallel", "partition_dim", "partition_stride"):
                parameter.__dict__.pop(attribute, None)
            set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dimension, stride=1)


def named_global_parameters(chunk: GPTModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters under names whose layer numbers count over all pipeline stages."""
    for name, parameter in chunk.named_parameters():
        match = re.match(r"decoder\.layers\.(\d+)\.(.*)", name)
        if match:
            name = f"decoder.layers.{chunk.decoder.layers[int(match[1])].layer_number - 1}.{match[2]}"
        yield name, parameter


def shard_of(name: str, full: torch.Tensor) -> torch.Tensor:
    """This tensor-parallel rank's part of a whole parameter (gate and up rows of linear_fc1 are split separately)."""
    size = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    if name.endswith("linear_fc1.weight"):
        gate, up = full.chunk(2)
        return torch.cat([gate.chunk(size)[rank], up.chunk(size)[rank]])
    dimension = shard_dimension(name)
    return full if dimension is None else full.chunk(size, dimension)[rank]


def shard_dimension(name: str) -> int | None:
    """The dimension that tensor parallelism splits, None for what every rank holds whole."""
    if name.endswith(("linear_qkv.weight", "linear_qkv.bias", "linear_fc1.weight")):
        return 0
    if name.endswith(("word_embeddings.weight", "output_layer.weight")):
        return 0
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return 1
    return None


def _normal(key: str, like: torch.nn.Parameter, std: float, seed: int) -> torch.Tensor:
    """The whole tensor, drawn in fp32 from a generator of its own on the parameter's device."""
    shape = list(like.shape)
    dimension = shard_dimension(key)
    if dimension is not None:
        shape[dimension] *= parallel_state.get_tensor_model_parallel_world_size()
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    generator = torch.Generator(like.device).manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.empty(shape, dtype=torch.float32, device=like.device).normal_(0.0, std, generator=generator)
