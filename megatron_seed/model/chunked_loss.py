"""Head and cross entropy for some tokens at a time: the logits of a whole batch are never held.

At a vocabulary of 155,136 the fp32 logits of 8,192 tokens are 5 GB. Here the forward pass keeps one number per token,
and the backward pass computes each chunk's logits again.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import tensor_parallel

from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy
from megatron_seed.runtime.weight_gradient import accumulate


def chunked_head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    real_vocab_size: int,
    chunk_tokens: int,
    sequence_parallel: bool,
    fused_weight_gradient: bool = False,
) -> torch.Tensor:
    """Loss of each token in nats, [seq, batch].

    hidden: [seq (or seq / tensor parallel), batch, hidden]; weight: [rows of this rank, hidden]; labels: [seq, batch].
    """
    if sequence_parallel:
        hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
    else:
        hidden = tensor_parallel.copy_to_tensor_model_parallel_region(hidden)
    flat = hidden.reshape(-1, hidden.shape[-1])
    losses = _ChunkedLoss.apply(flat, weight, labels.reshape(-1), real_vocab_size, chunk_tokens, fused_weight_gradient)
    return losses.view(labels.shape)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        real_vocab_size: int,
        chunk_tokens: int,
        fused: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, labels)
        ctx.settings = (real_vocab_size, chunk_tokens, fused)
        ctx.main_grad = getattr(weight, "main_grad", None) if fused else None
        parts = [
            vocab_parallel_cross_entropy(rows @ weight.t(), own, real_vocab_size)
            for rows, own in zip(hidden.split(chunk_tokens), labels.split(chunk_tokens), strict=True)
        ]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, labels = ctx.saved_tensors
        real_vocab_size, chunk_tokens, fused = ctx.settings
        grad_hidden = torch.empty_like(hidden)
        fused = fused and ctx.main_grad is not None
        total = ctx.main_grad if fused else torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(hidden), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = (hidden[part] @ weight.t()).requires_grad_()
            with torch.enable_grad():
                losses = vocab_parallel_cross_entropy(logits, labels[part], real_vocab_size)
            (scaled,) = torch.autograd.grad(losses, logits, grad[part])
            torch.matmul(scaled, weight, out=grad_hidden[part])
            accumulate(hidden[part], scaled, total)
        # The sum over tensor-parallel ranks is the backward of how `hidden` came here.
        if fused:
            weight.grad_added_to_main_grad = True
            return grad_hidden, torch.empty_like(weight), None, None, None, None
        return grad_hidden, total.to(weight.dtype), None, None, None, None
