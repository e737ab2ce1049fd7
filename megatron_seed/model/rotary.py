"""Rotary position embedding (Su et al., 2021) in the half-split form of Llama and megatron-core."""

from __future__ import annotations

import functools
from typing import Any

import torch


def rotate(tensor: torch.Tensor, positions: slice | torch.Tensor, base: float) -> torch.Tensor:
    """Rotate queries or keys by their positions.

    tensor: [seq, batch, heads, head_dim]; positions: of its sequence, a slice or [seq] int64. Same shape and layout.
    """
    last = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
    cos, sin = _table(_rounded(last), tensor.shape[-1] // 2, base, tensor.device, tensor.dtype)
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
    length: int, pairs: int, base: float, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [length, pairs] each; angles in fp32 whatever the dtype."""
    with torch.inference_mode(False):
        frequencies = 1.0 / base ** (torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
        return angles.cos().to(dtype), angles.sin().to(dtype)
