"""The model with one number per token in the place of logits: a file's score is the number after its last token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

HEADS = ("output_layer.", "score_head.")
"""What names of a head's parameters begin with, of either kind."""


class ScoreHead(torch.nn.Module):
    """A linear map from hidden states to one number, whole on every rank, in fp32 whatever the model computes in."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=config.params_dtype))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] to [...]."""
        return F.linear(hidden.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class ScoreModel(GPTModel):
    """megatron-core's GPTModel that gives scores; with labels, the squared error of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.post_process:
            del self.output_layer
            self.score_head = ScoreHead(self.config)

    def _postprocess(
        self, hidden_states: torch.Tensor, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Hidden states [seq, batch, hidden] to scores [batch, seq]; `labels` are scores too."""
        if not self.post_process:
            return hidden_states
        if self.config.sequence_parallel:
            # Every rank computes the same from all of it, so its gradient is whole everywhere and only cut up again.
            hidden_states = tensor_parallel.gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False
            )
        scores = self.score_head(hidden_states).t().contiguous()
        return scores if labels is None else (scores - labels).square()

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All parameters as any module has them: what GPTModel does for output layers and tied weights has no use."""
        return MegatronModule.sharded_state_dict(self, *args, **kwargs)
