"""torch's AdamW under megatron-core's optimizers, where neither TransformerEngine nor apex gives a fused one.

megatron-core is made for the fused ones, which keep `step` in the parameter group. With torch's, which keeps one tensor
per parameter, loading a checkpoint into its distributed optimizer fails on a fresh state, misses `step`, and ends with
one shared `step` tensor that every parameter's update then increments.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer


def is_torch_adam(part: MegatronOptimizer) -> bool:
    return type(getattr(part, "optimizer", None)) is torch.optim.AdamW


def prepare(part: MegatronOptimizer) -> None:
    """Take the fused kernel, give every parameter its zero state at once, and let loads keep their `step`."""
    if not is_torch_adam(part):
        return
    for group in part.optimizer.param_groups:
        group.update(fused=True, foreach=False)
        for parameter in group["params"]:
            part.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    if isinstance(part, DistributedOptimizer):
        part._set_main_param_and_optimizer_states = types.MethodType(_set_keeping_step, part)


def after_load(part: MegatronOptimizer) -> None:
    """Give each parameter a `step` of its own again."""
    if is_torch_adam(part):
        for state in part.optimizer.state.values():
            state["step"] = state["step"].detach().clone().float()


def _set_keeping_step(self: DistributedOptimizer, model_param: torch.nn.Parameter, tensors: dict[str, Any]) -> None:
    group, place = self.model_param_group_index_map[model_param]
    state = self.optimizer.state[self.optimizer.param_groups[group]["params"][place]]
    DistributedOptimizer._set_main_param_and_optimizer_states(self, model_param, {"step": state["step"], **tensors})
