"""A model with its optimizer that can be changed, saved and loaded without being trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from megatron_seed.config.schema import Recipe
from megatron_seed.runtime.groups import Groups


@dataclass
class SmallRun:
    """What a saver saves, and what it reported."""

    recipe: Recipe
    groups: Groups
    models: list[Any]
    optimizer: Any
    outcomes: list[Any] = field(default_factory=list)

    def saver(self, report: Callable[[Any], None] | None = None) -> Any:
        from megatron_seed.checkpoint.save import Saver

        return Saver(self.recipe, self.models, self.optimizer, self.groups, report or self.outcomes.append)

    @torch.no_grad()
    def change(self, seed: int) -> None:
        """Other values everywhere, in place, as a training step leaves them."""
        from megatron_seed.checkpoint.pieces import holding, set_optimizer_step
        from megatron_seed.optim.build import parts

        generator = torch.Generator().manual_seed(seed)
        for piece in holding(self.models, self.optimizer).pieces:
            piece.tensor.copy_(torch.rand(piece.tensor.shape, generator=generator))
        for part in parts(self.optimizer):
            set_optimizer_step(part, seed)

    def values(self) -> dict[tuple, torch.Tensor]:
        """Everything that a checkpoint has to bring back, copied."""
        from megatron_seed.checkpoint.pieces import holding, optimizer_step
        from megatron_seed.optim.build import parts

        steps = {("step",): torch.tensor([optimizer_step(part) for part in parts(self.optimizer)])}
        pieces = holding(self.models, self.optimizer).pieces
        return {(piece.key, piece.offsets): piece.tensor.clone() for piece in pieces} | steps


def equal(one: dict[tuple, torch.Tensor], other: dict[tuple, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
