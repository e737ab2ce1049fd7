"""A recipe's first steps as transformers and torch's AdamW take them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from megatron_seed.config.load import load_recipe
from megatron_seed.data.loader import PhaseData


def train_in_transformers(model: PreTrainedModel, config: Path, steps: int, learning_rate: float) -> list[float]:
    """The losses; vectors (norms, biases) are spared weight decay, gradients are clipped at 1."""
    recipe = load_recipe(config)
    size = recipe.phases[0].global_batch_size
    data = PhaseData.open(recipe.phases[0], recipe.seed, recipe.model.vocab_size, {})
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    losses = []
    for step in range(steps):
        batches = list(data.micro_batches(size * step, size, 0, 1))
        tokens, labels = (torch.cat([batch[key] for batch in batches]) for key in ("tokens", "labels"))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
