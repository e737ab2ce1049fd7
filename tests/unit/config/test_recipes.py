"""Recipes: presets, overrides, and refusals that name file, line and key."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_seed.config.load import dump_recipe, load_recipe, parse_recipe, shipped_recipes
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
        path.write_text(text, errors="surrogateescape")
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


NAMES = st.text(min_size=1) | st.sampled_from(
    ["3e-4", "1E5", "-2.5e+3", "1_0", "12:30", "off", "~", "\x85", "a\u2028 b"]
)


@settings(max_examples=25)
@given(st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_any_name_survives_a_dump(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(RECIPE)
        recipe = load_recipe(path)
        (phase,) = recipe.phases
        blend = tuple(phase.blend[0].model_copy(update={"name": name}) for name in names)
        recipe = recipe.model_copy(update={"phases": (phase.model_copy(update={"blend": blend}),)})
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


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
        ("name: \udcff", [], "recipe.yaml: not YAML"),
        (RECIPE.replace("name: small\n", ""), [], "name is missing"),
        (RECIPE + "guard: {max_skips: 7}\nguard: {max_skips: 3}\n", [], "key 'guard' stands twice"),
        (RECIPE, ["phases.0.name=''"], "phases.0.name: String should have at least 1 character"),
        (RECIPE, ["phases.0.blend.0.weight=.inf"], "phases.0.blend.0.weight: Input should be a finite number"),
        (RECIPE, ["phases.0.learning_rate=true"], "phases.0.learning_rate"),
        (RECIPE, ["model.rotary_base=0"], "model.rotary_base: Input should be greater than 0"),
        (RECIPE, ["stop.wall_clock_s=240"], "stop: wall_clock_s 240 must be above margin_s 300"),
        (RECIPE, ["watchdog.heartbeat_s=200"], "watchdog: heartbeat_s 200 must be below peer_timeout_s 120"),
        (RECIPE, ["profile.steps=[20,10]"], "profile: steps [20, 10]: the first step comes first"),
    ],
)
def test_refusals(recipe_file: Callable[[str], Path], text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(SeedError) as refusal:
        load_recipe(recipe_file(text), overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("override", ["loss=nix", "losss=target"])
def test_a_wrong_source_is_not_said_to_make_a_list_too_short(recipe_file: Callable[[str], Path], override: str) -> None:
    with pytest.raises(SeedError) as refusal:
        load_recipe(recipe_file(RECIPE), [f"phases.0.blend.0.{override}"])
    assert "phases.0.blend.0.los" in str(refusal.value) and ";" not in str(refusal.value).replace("; did you", "")
    with pytest.raises(SeedError, match=r"phases\.0\.blend: .* at least 1 item"):
        load_recipe(recipe_file(RECIPE), ["phases.0.blend=[]"])


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
        ({"tensor_parallel": 2}, 3, "phase main: 3 processes do not divide by tensor_parallel 2 x pipeline"),
        ({"tensor_parallel": 4}, 4, "num_query_groups 2 does not divide by tensor_parallel 4"),
        ({"pipeline_parallel": 3}, 3, "num_layers 2 does not divide by pipeline_parallel 3"),
        ({"sequence_parallel": True}, 1, "sequence_parallel needs tensor_parallel > 1"),
        ({"virtual_pipeline": 2}, 1, "virtual_pipeline needs pipeline_parallel > 1"),
        ({"pipeline_parallel": 2, "virtual_pipeline": 2}, 2, "by pipeline_parallel 2 x virtual_pipeline 2"),
        ({"context_parallel": 3}, 3, "sequence_length 64 does not divide by 2 x context_parallel 3 = 6"),
        ({"overlap_param_gather": True}, 1, "overlap_param_gather needs distributed_optimizer and overlap_grad_reduce"),
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


@pytest.mark.parametrize(
    ("text", "checkpoint"),
    [("from=runs/a@1000", "runs/a/checkpoints/step-00001000"), ("from=runs/a b", "runs/a b"), ("from=3e-4", "3e-4")],
)
def test_from_names_another_runs_checkpoint(recipe_file: Callable[[str], Path], text: str, checkpoint: str) -> None:
    assert load_recipe(recipe_file(RECIPE), [text]).start_from.checkpoint == Path(checkpoint)


def test_a_branch_from_no_step_is_refused(recipe_file: Callable[[str], Path]) -> None:
    with pytest.raises(SeedError, match="write it as from=RUN or from=RUN@STEP"):
        load_recipe(recipe_file(RECIPE), ["from=runs/a@last"])


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_fit_their_layout(name: str) -> None:
    check_layout(load_recipe(name), 2 if name.startswith("quickstart") else 1024)


def test_the_8b_recipes_hold_the_reports_numbers() -> None:
    first, second = load_recipe("seed_coder_8b/pretrain"), load_recipe("seed_coder_8b/continue")
    budget = [(phase.tokens, phase.learning_rate.peak, phase.fim) for phase in (*first.phases, *second.phases)]
    expected = [(1e12, 3e-4, 0.5), (4e12, 3e-4, 0.5), (4e11, 3e-4 / 10**0.5, 0.1), (6e11, 3e-5, 0.1)]
    assert budget == [(tokens, pytest.approx(rate), fim) for tokens, rate, fim in expected]


def test_batches_ramp_up_by_tokens(recipe_file: Callable[[str], Path]) -> None:
    phase = load_recipe(recipe_file(RECIPE), ["phases.0.batch_ramp={start: 2, increment: 2, tokens: 3000}"]).phases[0]
    assert [phase.batch_size_at(tokens) for tokens in (0, 999, 1000, 2999, 3000, 10**6)] == [2, 2, 4, 6, 8, 8]
    steps = tokens = 0
    while tokens < phase.tokens:
        steps, tokens = steps + 1, tokens + phase.batch_size_at(tokens) * phase.sequence_length
    assert phase.steps == steps
    with pytest.raises(SeedError, match="batch_ramp from 3 by 2 does not reach global_batch_size 8"):
        load_recipe(recipe_file(RECIPE), ["phases.0.batch_ramp={start: 3, increment: 2, tokens: 3000}"])
