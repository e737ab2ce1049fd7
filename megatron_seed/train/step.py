"""One optimizer step, and one pass over held-out data, through megatron-core's pipeline schedules."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_seed.data.loader import Batch
from megatron_seed.model.context import take_pieces
from megatron_seed.optim.build import update_parameters
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups


@dataclass(frozen=True)
class Gradients:
    """What a forward and backward pass over a global batch gave; the gradients themselves wait in the optimizer, summed
    over the tokens."""

    loss: float
    """Mean over those of the global batch's tokens whose loss counts, nats; the same on every rank. 0 where none does,
    and then so are the gradients."""
    tokens: float
    """Those that count, of the global batch."""
    grad_norm: float
    """Global, of the mean over the tokens, before clipping."""
    own_loss: float
    """Summed over this rank's tokens."""
    busy_s: float
    """Until this rank's backward pass was done; then it waited for the others."""


def compute_gradients(
    models: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    batches: Sequence[Batch],
    groups: Groups,
) -> Gradients:
    """Forward and backward over this rank's micro-batches, reduced over the replicas. May be repeated."""
    reduction = models[0].config.finalize_model_grads_func
    reduction.begin()
    for model in models:
        model.zero_grad_buffer()
    optimizer.zero_grad()
    sums = _run(models, iter(batches), len(batches), groups, forward_only=False)
    own_loss = sums[0].item()
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    loss, tokens = _over_replicas(sums, groups).tolist()
    shares = max(1.0, tokens)
    return Gradients(loss / shares, tokens, grad_norm / shares, own_loss, reduction.busy_s())


def train_step(
    models: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    batches: Sequence[Batch],
    groups: Groups,
) -> Gradients:
    """Compute and apply gradients, whatever they are."""
    gradients = compute_gradients(models, optimizer, batches, groups)
    update_parameters(optimizer, gradients.grad_norm, gradients.tokens)
    return gradients


def evaluate(models: Sequence[DistributedDataParallel], batches: Sequence[Batch], groups: Groups) -> torch.Tensor:
    """[2]: summed loss in nats and number of the tokens whose mask is one, over all replicas."""
    for model in models:
        model.eval()
    with torch.no_grad():
        sums = _run(models, iter(batches), len(batches), groups, forward_only=True)
    for model in models:
        model.train()
    return _over_replicas(sums, groups)


def _run(
    models: Sequence[DistributedDataParallel],
    batches: Iterator[Batch],
    micro_batches: int,
    groups: Groups,
    forward_only: bool,
) -> torch.Tensor:
    """[2]: summed loss and counted tokens of this rank; zeros on all but the last pipeline stage."""
    first = next(batches)
    rows, length = first["tokens"].shape
    if "document_ends" in first:  # packed into one row
        rows, length = 1, rows * length
    # Each chunk of an interleaved pipeline goes through the same batches at its own pace.
    iterators = itertools.tee(itertools.chain([first], batches), len(models))
    outputs = get_forward_backward_func()(
        forward_step_func=functools.partial(_forward_step, groups),
        data_iterator=list(iterators) if len(models) > 1 else iterators[0],
        model=list(models) if len(models) > 1 else models[0],
        num_microbatches=micro_batches,
        seq_length=length,
        micro_batch_size=rows,
        forward_only=forward_only,
    )
    sums = torch.zeros(2, dtype=torch.float64, device="cpu")
    for output in outputs:
        sums += output["sums"].double().cpu()
    return sums


def _forward_step(groups: Groups, batches: Iterator[Batch], model: Any) -> tuple[torch.Tensor, Any]:
    where = next(model.parameters()).device
    batch = {name: tensor.to(where, non_blocking=True) for name, tensor in next(batches).items()}
    ends = batch.pop("document_ends", None)
    packed = _packed(ends) if ends is not None else None
    if packed:
        batch = {name: tensor.reshape(1, -1) for name, tensor in batch.items()}
    rows, length = batch["tokens"].shape
    batch["positions"] = torch.arange(length, device=where).expand(rows, -1)
    batch = {name: take_pieces(t, groups.context_rank, groups.context_size, 1) for name, t in batch.items()}
    output = model(batch["tokens"], batch["positions"], None, labels=batch["labels"], packed_seq_params=packed)

    def reduce_loss(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        mask = batch["loss_mask"]
        total = (losses.float() * mask).sum()
        tokens = mask.sum()
        # A copy: the schedule goes on to scale `total` in place.
        return total, tokens.int(), {"sums": torch.stack([total.detach().clone(), tokens])}

    return output, reduce_loss


def _packed(ends: torch.Tensor) -> PackedSeqParams:
    longest = int(ends.diff().max())
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=longest, max_seqlen_kv=longest
    )


def _over_replicas(sums: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Sums over all replicas, known to every rank. Tensor-parallel peers hold the same sums: one of them counts."""
    if groups.tensor_rank or not groups.last_stage:
        sums = torch.zeros_like(sums)
    where = device.device(groups.launch.local_rank)
    sums = sums.to(where)
    dist.all_reduce(sums)
    return sums.cpu()
