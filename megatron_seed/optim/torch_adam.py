"""torch's AdamW under megatron-core's optimizers, where neither TransformerEngine nor apex gives a fused one.

megatron-core is made for the fused ones, which keep `step` in the parameter group; torch's keeps one tensor per
parameter. megatron-core's own loading would share one `step` among all parameters, and every parameter's update would
then increment it; checkpoints are therefore loaded without it.
"""

from __future__ import annotations

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer


def prepare(part: MegatronOptimizer) -> None:
    """Take the fused kernel, and give every parameter its zero state at once, so that there is one to load into."""
    if type(getattr(part, "optimizer", None)) is not torch.optim.AdamW:
        return
    for group in part.optimizer.param_groups:
        group.update(fused=True, foreach=False)
        for parameter in group["params"]:
            part.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
