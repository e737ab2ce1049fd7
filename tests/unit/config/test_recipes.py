"""Recipes: presets, overrides, and refusals that name file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_seed.config.load import dump_recipe, load_recipe, parse_recipe
from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig, Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.errors import SeedError

RECIPE = """\
name: small
run_dir: runs/small
model:
  preset: seed_coder_tiny
  num_layers: 2
phases:
  - name: main
    tokens: 1e6
    learning_rate: 3e-4
    blend:
      - {name: code, builds: data/code, weight: 1}
    sequence_length: 64
    global_batch_size: 8
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_then_preset_then_recipe_then_overrides(recipe_file: Callable[[str], Path]) -> None:
    recipe = load_recipe(recipe_file(RECIPE), ["phases.0.tokens=2e6", "model.hidden_size=32", "optimizer.beta2=0.9"])
    assert recipe.optimizer.beta1 == 0.9  # default
    assert recipe.model.num_query_groups == 2  # preset
    assert recipe.model.num_layers == 2  # recipe
    assert (recipe.model.hidden_size, recipe.phases[0].tokens, recipe.optimizer.beta2) == (32, 2_000_000, 0.9)
    assert recipe.phases[0].learning_rate.peak == 3e-4
    assert recipe.phases[0].blend[0].builds == ("data/code",)


def test_a_dumped_recipe_loads_to_the_same_value(recipe_file: Callable[[str], Path]) -> None:
    recipe = load_recipe(recipe_file(RECIPE))
    assert load_recipe(recipe_file(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (RECIPE.replace("tokens:", "token:"), [], "recipe.yaml:8: unknown key phases.0.token; did you mean tokens?"),
        (RECIPE.replace("num_layers", "num_layer"), [], "recipe.yaml:5: unknown key model.num_layer; did you mean"),
        (RECIPE.replace("seed_coder_tiny", "seed_coder_9b"), [], "no preset 'seed_coder_9b'; did you mean"),
        (RECIPE.replace("global_batch_size: 8", "global_batch_size: 0"), [], "recipe.yaml:13: phases.0.global_batch"),
        (RECIPE, ["optimiser.beta1=0.9"], "unknown key optimiser; did you mean optimizer?"),
        (RECIPE, ["phases.3.tokens=1"], "there is no place 'phases.3.tokens'"),
        (RECIPE, ["tokens"], "write it as key=value"),
        ("[1, 2]", [], "a recipe is a mapping"),
        ("a: [", [], "not YAML"),
        (RECIPE.replace("name: small\n", ""), [], "name is missing"),
    ],
)
def test_refusals(recipe_file: Callable[[str], Path], text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(SeedError) as refusal:
        load_recipe(recipe_file(text), overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SeedError, match="no recipe file nowhere"):
        load_recipe("nowhere")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_models(name: str) -> None:
    assert ModelConfig(**PRESETS[name]).num_layers > 0


def with_layout(recipe: Recipe, **layout: object) -> Recipe:
    return recipe.model_copy(update={"layout": LayoutConfig(**layout)})


@pytest.mark.parametrize(
    ("layout", "world", "message"),
    [
        ({"tensor_parallel": 2}, 3, "3 processes do not divide by tensor_parallel 2 x pipeline_parallel 1 = 2"),
        ({"tensor_parallel": 4}, 4, "num_query_groups 2 does not divide by tensor_parallel 4"),
        ({"pipeline_parallel": 3}, 3, "num_layers 2 does not divide by pipeline_parallel 3"),
        ({"sequence_parallel": True}, 1, "sequence_parallel needs tensor_parallel > 1"),
        ({}, 3, "global_batch_size 8 does not divide by micro_batch_size 1 x data parallel 3"),
    ],
)
def test_impossible_layouts_say_which_number_does_not_divide(
    recipe_file: Callable[[str], Path], layout: dict, world: int, message: str
) -> None:
    recipe = with_layout(load_recipe(recipe_file(RECIPE)), **layout)
    with pytest.raises(SeedError) as refusal:
        check_layout(recipe, world)
    assert message in str(refusal.value)


def test_possible_layouts_pass(recipe_file: Callable[[str], Path]) -> None:
    recipe = load_recipe(recipe_file(RECIPE))
    check_layout(recipe, 8)
    check_layout(with_layout(recipe, tensor_parallel=2, pipeline_parallel=2, sequence_parallel=True), 4)


def test_names_must_be_unique() -> None:
    phase = {
        "name": "main",
        "tokens": 1,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": "x"}, {"name": "a", "builds": "y"}],
        "sequence_length": 8,
        "global_batch_size": 1,
    }
    values = {"name": "n", "run_dir": "r", "model": {"preset": "seed_coder_tiny"}, "phases": [phase]}
    with pytest.raises(SeedError, match="source of phase main named twice: a"):
        parse_recipe(values, "here")
