"""Cross entropy over a vocabulary that is split across tensor-parallel ranks, in fp32, without the padded rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state


def vocab_parallel_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int) -> torch.Tensor:
    """Loss of each token in nats.

    logits: [..., rows of this rank], overwritten; labels: [...] of the same leading shape. Rows from real_vocab_size on
    are padding: they get no probability and no gradient.
    """
    return _CrossEntropy.apply(logits, labels, real_vocab_size)


class _CrossEntropy(torch.autograd.Function):
    """Keeps the softmax in the logits' own memory when these are fp32 already."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, real_vocab_size: int) -> torch.Tensor:
        rows = logits.detach().view(-1, logits.shape[-1])
        softmax, loss, own, mine = softmax_and_loss(rows, labels.reshape(-1), real_vocab_size)
        ctx.save_for_backward(softmax, own, mine)
        ctx.dtype, ctx.shape = logits.dtype, logits.shape
        return loss.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        softmax, own, mine = ctx.saved_tensors
        softmax.scatter_add_(1, own[:, None], -mine[:, None].to(softmax.dtype))
        return softmax.mul_(grad.reshape(-1, 1)).view(ctx.shape).to(ctx.dtype), None, None


def softmax_and_loss(
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
    scores[:, max(0, min(rows, real_vocab_size - start)) :] = -torch.inf
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
