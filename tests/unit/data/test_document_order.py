"""Orders of large builds: kept in files, made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data import order
from megatron_seed.data.indexed import IndexedTokens


@pytest.fixture
def recipe(tiny_builds: dict[str, str], tmp_path: Path) -> Recipe:
    build = IndexedTokens.open(tiny_builds["train"])
    phase = {
        "name": "p",
        "tokens": 2 * build.token_count,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": tiny_builds["train"]}],
        "sequence_length": 8,
        "global_batch_size": 1,
    }
    model = {"preset": "seed_coder_tiny"}
    return parse_recipe({"name": "n", "run_dir": str(tmp_path), "model": model, "phases": [phase]}, "test")


def test_small_orders_need_no_file(recipe: Recipe) -> None:
    assert order.build_orders(recipe) == 0
    assert order.missing_orders(recipe) == []


def test_large_orders_are_made_once_and_equal_those_made_on_the_spot(
    recipe: Recipe, tiny_builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = IndexedTokens.open(tiny_builds["train"])
    expected = order.epoch_order(build, "1234:a:1", None)
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 300)
    assert len(order.missing_orders(recipe)) == order.build_orders(recipe) == 3  # two epochs, and one to run over into
    assert order.missing_orders(recipe) == [] and order.build_orders(recipe) == 0
    mapped = order.epoch_order(build, "1234:a:1", recipe.order_cache)
    assert isinstance(mapped.ends.base, np.memmap)
    assert all(np.array_equal(one, other) for one, other in zip(mapped, expected, strict=True))
    assert not list(recipe.order_cache.glob(".*"))
