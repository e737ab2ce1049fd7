"""megatron-core loads a checkpoint of ours unchanged, whatever wrote it: parameters and optimizer state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.checkpoint.layout import finished
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups

CONTENT = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_was_written_once_or_in_pieces(replicas: int, tiny_recipe: Callable[..., Path], start: Callable) -> None:
    """One replica writes fp32 parameters once for model and optimizer; two write parts that follow no grid."""
    recipe_path = tiny_recipe("ours")
    start("-m", "megatron_seed.train", recipe_path, "phases.0.tokens=768", processes=replicas)
    (checkpoint,) = finished(recipe_path.with_suffix(""))
    recipe = load_recipe(recipe_path)
    with process_groups(LayoutConfig(), seed=0):
        from megatron.core import dist_checkpointing
        from megatron.core.dist_checkpointing.serialization import load_content_metadata

        from megatron_seed.checkpoint.load import load_checkpoint
        from megatron_seed.model.build import build_model
        from megatron_seed.optim.build import build_optimizer, parts, wrap_data_parallel

        chunks = build_model(recipe.model, recipe.layout, "fp32")
        models = wrap_data_parallel(chunks, recipe.layout)
        optimizer = build_optimizer(models, recipe.optimizer, recipe.layout, "fp32")
        content = load_content_metadata(str(checkpoint))
        assert content.items() >= CONTENT.items()
        state = {"model": chunks[0].sharded_state_dict(metadata=dict(content))}
        state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=True, metadata=dict(content))
        theirs = dist_checkpointing.load(state, str(checkpoint))

        load_checkpoint(checkpoint, models, optimizer)
        for name, parameter in chunks[0].named_parameters():
            assert torch.equal(theirs["model"][name], parameter)
        (part,) = parts(optimizer)
        assert {group["step"] for group in theirs["optimizer"]["optimizer"]["param_groups"]} == {3}
        compared = 0
        for number, parameter in enumerate(part.buffers[0].param_index_map):
            group, place = part.model_param_group_index_map[parameter]
            main = part.optimizer.param_groups[group]["params"][place]
            loaded = theirs["optimizer"]["param_state"][number]
            assert torch.equal(loaded["param"].flatten(), main)
            for moment in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(loaded[moment].flatten(), part.optimizer.state[main][moment])
                assert loaded[moment].any()
            compared += main.numel()
        assert compared == sum(parameter.numel() for parameter in chunks[0].parameters())
