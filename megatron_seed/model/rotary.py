"""Rotary position embedding (Su et al., 2021) in the half-split form of Llama and megatron-core."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from megatron_seed.config.schema import LinearRope, Llama3Rope, ModelConfig, YarnRope

Frequencies = tuple[float, ...]
"""Radians that each pair of a head turns by from one position to the next."""


def rotary_frequencies(config: ModelConfig) -> Frequencies:
    """Of every pair of a head, computed in fp32, with the model's scaling."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    plain = 1.0 / config.rotary_base ** (pairs / config.head_dim)
    match config.rope_scaling:
        case None:
            scaled = plain
        case LinearRope(factor=factor):
            scaled = plain / factor
        case Llama3Rope() as llama3:
            scaled = _llama3(plain, llama3)
        case YarnRope() as yarn:
            scaled = _yarn(plain, yarn, config.rotary_base)
    return tuple(scaled.tolist())


def attention_scale(config: ModelConfig) -> float | None:
    """What products of query and key are multiplied by, None for the usual 1 / sqrt(head_dim)."""
    if not isinstance(config.rope_scaling, YarnRope):
        return None
    yarn = config.rope_scaling
    factor = yarn.attention_factor or 0.1 * math.log(yarn.factor) + 1.0
    return factor**2 / math.sqrt(config.head_dim)


def _llama3(plain: torch.Tensor, scaling: Llama3Rope) -> torch.Tensor:
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_max_sequence_length * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: torch.Tensor, scaling: YarnRope, base: float) -> torch.Tensor:
    pairs = len(plain)

    def pair_that_turns(times: float) -> float:
        return pairs * math.log(scaling.original_max_sequence_length / (times * 2 * math.pi)) / math.log(base)

    first = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(scaling.beta_slow)), 2 * pairs - 1)
    slowed = ((torch.arange(pairs) - first) / max(last - first, 0.001)).clamp(0, 1)
    return plain / scaling.factor * slowed + plain * (1 - slowed)


def rotate(tensor: torch.Tensor, positions: slice | torch.Tensor, frequencies: Frequencies) -> torch.Tensor:
    """Rotate queries or keys by their positions.

    tensor: [seq, batch, heads, head_dim]; positions: of its sequence, a slice or [seq] int64. Same shape and layout.
    """
    last = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
    cos, sin = _table(_rounded(last), frequencies, tensor.device, tensor.dtype)
    return _Rotate.apply(tensor, cos[positions][:, None, None], sin[positions][:, None, None])


class _Rotate(torch.autograd.Function):
    """Writes each half of the result in place; its backward is the rotation the other way, so no input is kept."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(tensor, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _rotated(grad, *ctx.saved_tensors, -1.0), None, None


def _rotated(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: float) -> torch.Tensor:
    result = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    first, second = tensor.chunk(2, -1)
    to_first, to_second = result.chunk(2, -1)
    torch.mul(first, cos, out=to_first)
    to_first.addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=to_second)
    to_second.addcmul_(first, sin, value=direction)
    return result


def _rounded(length: int) -> int:
    """Up to a power of two: a table that grows token by token, in decoding, is made anew seldom."""
    return 1 << max(8, (length - 1).bit_length())


@functools.lru_cache(maxsize=8)
def _table(
    length: int, frequencies: Frequencies, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [length, pairs] each; angles in fp32 whatever the dtype."""
    with torch.inference_mode(False):
        per_position = torch.tensor(frequencies, dtype=torch.float32, device=device)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), per_position)
        return angles.cos().to(dtype), angles.sin().to(dtype)
