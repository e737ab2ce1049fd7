"""Orders of large builds: kept in files, made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from launch.cli import app
from megatron_seed.config.load import dump_recipe, parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data import order
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import PhaseData, cursors_after


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
    assert order.build_orders(recipe) == (0, 0)
    assert order.missing_orders(recipe) == []


def test_large_orders_are_made_once_and_equal_those_made_on_the_spot(
    recipe: Recipe, tiny_builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = IndexedTokens.open(tiny_builds["train"])
    expected = order.epoch_order(build, "1234:a:1", None)
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 300)
    assert len(order.missing_orders(recipe)) == 3  # two epochs, and one to run over into
    assert order.build_orders(recipe) == (3, 0)
    assert order.missing_orders(recipe) == [] and order.build_orders(recipe) == (0, 3)
    mapped = order.epoch_order(build, "1234:a:1", recipe.order_cache)
    assert isinstance(mapped.ends.base, np.memmap)
    assert all(np.array_equal(one, other) for one, other in zip(mapped, expected, strict=True))
    assert not list(recipe.order_cache.glob(".*"))


def test_a_run_needs_no_order_that_was_not_made_before_it(
    recipe: Recipe, tiny_builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where epochs have their own builds, a later phase has others, and a shuffled block reaches over an epoch."""
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 300)
    both = {"name": "a", "builds": list(tiny_builds.values())}
    tokens = sum(IndexedTokens.open(prefix).token_count for prefix in both["builds"]) - 8
    first = {**recipe.phases[0].model_dump(), "tokens": tokens, "blend": [both], "shuffle_block": 256}
    second = {**first, "name": "q", "blend": [{**both, "builds": both["builds"][::-1]}], "sequence_length": 24}
    phases = [type(recipe.phases[0]).model_validate(phase) for phase in (first, second)]
    recipe = recipe.model_copy(update={"phases": tuple(phases)})
    order.build_orders(recipe)
    made, cursors = set(recipe.order_cache.iterdir()), {}
    for phase in phases:
        data = PhaseData.open(phase, recipe.seed, None, cursors, order_cache=recipe.order_cache)
        samples = phase.tokens // phase.sequence_length
        for index in range(samples):
            data.sample(index)
        cursors = cursors_after(phase, recipe.seed, cursors, None, samples)
    assert set(recipe.order_cache.iterdir()) == made


def test_the_command_says_what_it_made_and_where(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 300)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    arguments = ["data", "index", str(tmp_path / "recipe.yaml"), f"index_cache={tmp_path / 'cache'}"]
    for made, present in ((3, 0), (0, 3)):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.output == f"{tmp_path / 'cache'}: {made} document orders made, {present} were there\n"
    assert len(list((tmp_path / "cache").iterdir())) == 3
