"""megatron-core's data-parallel wrapper and optimizer around the model's chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig as CoreOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.config.schema import LayoutConfig, OptimizerConfig
from megatron_seed.model.build import Chunk, Precision
from megatron_seed.optim import torch_adam
from megatron_seed.runtime import device


def wrap_data_parallel(chunks: Sequence[Chunk], layout: LayoutConfig) -> list[DistributedDataParallel]:
    """Gradients in fp32 buffers, summed over the batch's tokens and the replicas; the update divides them."""
    config = chunks[0].config
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=layout.distributed_optimizer,
        overlap_grad_reduce=layout.overlap_grad_reduce,
        overlap_param_gather=layout.overlap_param_gather,
    )
    models = [
        DistributedDataParallel(config=config, ddp_config=ddp, module=chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]
    config.finalize_model_grads_func = Reduction()
    if layout.overlap_grad_reduce:
        no_sync = [model.no_sync for model in models]
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return models


class Reduction:
    """megatron-core's reduction of gradients over the replicas, taking down what this rank had done until then."""

    def __init__(self) -> None:
        self.busy_s: Callable[[], float] = lambda: 0.0
        """Seconds from `begin` to the end of the last backward pass; waits for the GPU."""
        self._before: torch.Tensor | None = None

    def begin(self) -> None:
        self._watch = device.Stopwatch()

    def __call__(self, models: Sequence[DistributedDataParallel], tokens: Any = None, **named: Any) -> None:
        """`tokens` are this rank's; the update divides by the batch's in the pass over memory that clips."""
        self.busy_s = self._watch.stop()
        mixed = models[0].ddp_config.overlap_grad_reduce or models[0].dp_cp_group.size() == 1
        self._before = None if mixed else gradient_norm(models)
        finalize_model_grads(models, None, **named)

    def own_norm(self, models: Sequence[DistributedDataParallel]) -> float | None:
        """Norm of this rank's gradients without other replicas' part; None where those came in on the way."""
        if models[0].dp_cp_group.size() == 1:
            return gradient_norm(models).item()
        return None if self._before is None else self._before.item()


def gradient_norm(models: Sequence[DistributedDataParallel]) -> torch.Tensor:
    """Of everything in this rank's gradient buffers, a scalar on their device."""
    buffers = [buffer.grad_data for model in models for buffer in model.buffers + model.expert_parallel_buffers]
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(buffer) for buffer in buffers]))


def update_parameters(optimizer: MegatronOptimizer, grad_norm: float, tokens: float) -> bool:
    """Divide the gradients by the batch's tokens, clip them by what is their global norm then, and step; False when the
    optimizer refuses."""
    for part in parts(optimizer):
        longest = part.config.clip_grad
        clip = min(1.0, longest / (grad_norm + 1e-6)) if longest > 0.0 else 1.0  # as megatron-core has it
        gradients = [parameter.grad for parameter in part.get_parameters() if parameter.grad is not None]
        if gradients:  # a rank may hold no part of a small model
            torch._foreach_mul_(gradients, clip / max(1.0, tokens))
    return bool(optimizer.step_with_ready_grads())


def build_optimizer(
    models: Sequence[DistributedDataParallel], config: OptimizerConfig, layout: LayoutConfig, precision: Precision
) -> MegatronOptimizer:
    """AdamW with fp32 master weights: TransformerEngine's or apex's fused one where installed, else torch's."""
    optimizer = get_megatron_optimizer(
        CoreOptimizerConfig(
            optimizer="adam",
            lr=0.0,
            min_lr=0.0,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.epsilon,
            clip_grad=config.clip_grad_norm,
            bf16=precision == "bf16",
            params_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            use_distributed_optimizer=layout.distributed_optimizer,
            overlap_param_gather=layout.overlap_param_gather,
        ),
        list(models),
    )
    for part in parts(optimizer):
        torch_adam.prepare(part)
    apply_settings(optimizer, config)
    return optimizer


def apply_settings(optimizer: MegatronOptimizer, config: OptimizerConfig) -> None:
    """Put the recipe's settings into every group; a load brings back those that the checkpoint was made with."""
    for group in optimizer.param_groups:
        decay = config.weight_decay * group.get("wd_mult", 1.0)
        group.update(weight_decay=decay, betas=(config.beta1, config.beta2), eps=config.epsilon)


@contextlib.contextmanager
def whole_parameters(models: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """Inside, every rank's parameters are up to date, also where gathering them would wait for the next forward."""
    waiting = [model for model in models if model.ddp_config.overlap_param_gather]
    for model in waiting:
        model.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        for model in waiting:
            model.enable_forward_pre_hook()


def set_learning_rate(optimizer: MegatronOptimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)


def parts(optimizer: MegatronOptimizer) -> Iterator[MegatronOptimizer]:
    """The optimizers that megatron-core may have chained into one."""
    yield from getattr(optimizer, "chained_optimizers", [optimizer])
