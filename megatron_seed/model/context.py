"""Context parallelism: each process holds two pieces of every sequence, one from each end, so that all have equal work.

A sequence is cut into 2 x size pieces; rank r holds pieces r and 2 x size - 1 - r, as TransformerEngine has it too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def pieces_of(rank: int, size: int) -> tuple[int, ...]:
    """Numbers of the pieces a rank holds, in the order in which it holds them."""
    return (rank, 2 * size - 1 - rank) if size > 1 else (0,)


def ranges_of(rank: int, size: int, length: int) -> list[tuple[int, int]]:
    """Where the pieces of a rank lie in a sequence of `length`."""
    pieces = pieces_of(rank, size)
    width = length // (2 * size) if size > 1 else length
    return [(piece * width, (piece + 1) * width) for piece in pieces]


def take_pieces(tensor: torch.Tensor, rank: int, size: int, dimension: int) -> torch.Tensor:
    """This rank's part of a whole tensor, along its sequence dimension."""
    if size == 1:
        return tensor
    ranges = ranges_of(rank, size, tensor.shape[dimension])
    return torch.cat([tensor.narrow(dimension, start, stop - start) for start, stop in ranges], dimension)


def gather_sequence(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[seq / size, ...] of each rank to the whole [seq, ...] in natural order; gradients are summed back."""
    return tensor if group.size() == 1 else _Gather.apply(tensor, group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, tensor.contiguous(), group=group)
        halves = [part.chunk(2) for part in parts]
        return torch.cat([half[0] for half in halves] + [half[1] for half in reversed(halves)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        size = ctx.group.size()
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return take_pieces(grad, ctx.group.rank(), size, 0), None
