"""Cross entropy over a vocabulary that is split across tensor-parallel ranks, in fp32, without the padded rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_seed.runtime import device

_NEVER = -1e30
"""A logit without probability. Finite: where all of a rank's rows are padding, their highest is taken from them."""


def vocab_parallel_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int) -> torch.Tensor:
    """Loss of each token in nats, fp32.

    logits: [..., rows of this rank], overwritten; labels: [...] of the same leading shape. Rows from real_vocab_size on
    are padding: they get no probability and no gradient.
    """
    if device.has_transformer_engine():
        return _fused(logits, labels, real_vocab_size)
    return _CrossEntropy.apply(logits, labels, real_vocab_size)


def _fused(logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int) -> torch.Tensor:
    """By TransformerEngine's kernels, which read the logits twice and leave their gradient in their place."""
    from megatron.core.extensions.transformer_engine import te_parallel_cross_entropy

    group = parallel_state.get_tensor_model_parallel_group()
    _padding(logits.detach(), real_vocab_size, group).fill_(_NEVER)
    loss = te_parallel_cross_entropy(
        logits.reshape(1, -1, logits.shape[-1]), labels.reshape(1, -1).contiguous(), group if group.size() > 1 else None
    )
    return loss.view(labels.shape)


class _CrossEntropy(torch.autograd.Function):
    """Keeps what becomes the gradient in the logits' own memory when these are fp32 already."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int) -> torch.Tensor:
        rows = logits.detach().view(-1, logits.shape[-1])
        softmax, loss, own, mine = _softmax_and_loss(rows, labels.reshape(-1), real_vocab_size)
        ctx.save_for_backward(softmax, own, mine)
        ctx.dtype, ctx.shape = logits.dtype, logits.shape
        return loss.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        softmax, own, mine = ctx.saved_tensors
        softmax.scatter_add_(1, own[:, None], -mine[:, None].to(softmax.dtype))
        return softmax.mul_(grad.reshape(-1, 1)).view(ctx.shape).to(ctx.dtype), None, None


def _softmax_and_loss(
    logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax and loss of [tokens, rows of this rank] logits, which are overwritten when they are fp32.

    Returns the softmax [tokens, rows] in fp32, the loss [tokens], each label's row of this rank [tokens] (clamped), and
    whether it is one of this rank's [tokens].
    """
    group = parallel_state.get_tensor_model_parallel_group()
    rows = logits.shape[-1]
    start = rows * group.rank()
    scores = logits.float()
    own = labels - start
    mine = (own >= 0) & (own < rows)
    own = own.clamp(0, rows - 1)
    _padding(scores, real_vocab_size, group).fill_(_NEVER)
    if group.size() > 1:
        return scores, _split_softmax_(scores, own, mine, group), own, mine
    torch.log_softmax(scores, -1, out=scores)
    loss = -scores.gather(1, own[:, None]).squeeze(1)
    return scores.exp_(), loss, own, mine


def _split_softmax_(
    scores: torch.Tensor, labels: torch.Tensor, mine: torch.Tensor, group: dist.ProcessGroup
) -> torch.Tensor:
    """Turn [tokens, rows] scores into probabilities in place; returns the loss of each token."""
    highest = scores.amax(-1)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    scores.sub_(highest[:, None])
    at_label = scores.gather(1, labels[:, None]).squeeze(1).masked_fill_(~mine, 0.0)
    scores.exp_()
    totals = torch.stack([at_label, scores.sum(-1)])
    dist.all_reduce(totals, group=group)
    scores.div_(totals[1][:, None])
    return totals[1].log() - totals[0]


def _padding(logits: torch.Tensor, real_vocab_size: int, group: dist.ProcessGroup) -> torch.Tensor:
    """The part of this rank's [..., rows] logits that is padding, a view."""
    rows = logits.shape[-1]
    return logits[..., max(0, min(rows, real_vocab_size - rows * group.rank())) :]
