"""Small runs in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_run import SmallRun

from megatron_seed.config.schema import LayoutConfig, Recipe
from megatron_seed.runtime.groups import Groups, process_groups

MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "head_dim": 8,
    "vocab_size": 120,
    "max_sequence_length": 64,
}


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with process_groups(LayoutConfig(), seed=0) as groups:
        yield groups


@pytest.fixture
def small_run(groups: Groups, tmp_path: Path) -> Callable[..., SmallRun]:
    """Makes a run in a folder of its own; keywords are settings of `checkpoint` and, as `layout`, of the layout."""

    def make(name: str = "run", layout: dict | None = None, precision: str = "fp32", **checkpoint: object) -> SmallRun:
        from megatron_seed.model.build import build_model
        from megatron_seed.optim.build import build_optimizer, wrap_data_parallel

        source = {"name": "a", "builds": "nowhere"}
        phase = {"name": "main", "tokens": 1000, "learning_rate": {"peak": 1e-3}, "blend": [source],
                 "sequence_length": 32, "global_batch_size": 1}  # fmt: skip
        recipe = Recipe.model_validate(
            {"name": name, "run_dir": tmp_path / name, "model": MODEL, "phases": [phase], "precision": precision,
             "layout": layout or {}, "checkpoint": checkpoint}
        )  # fmt: skip
        chunks = build_model(recipe.model, recipe.layout, precision, seed=1)
        models = wrap_data_parallel(chunks, recipe.layout)
        optimizer = build_optimizer(models, recipe.optimizer, recipe.layout, precision)
        return SmallRun(recipe, groups, models, optimizer)

    return make
