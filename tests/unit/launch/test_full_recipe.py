"""The recipe of `quickstart --full` against the report's numbers, and how it becomes mixtures."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest

from data_prep.mixtures.builds import Build
from data_prep.mixtures.plan import plan
from data_prep.mixtures.settings import MixtureConfig
from launch.full.builds import Category, _epochs_needed, _mixture, _rates
from launch.full.settings import FullConfig
from launch.full.training import _with_paths, recipe_of, without
from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError

NAMES = ("github", "web", "math_web", "high_quality", "long_files", "commits", "repositories")


@pytest.fixture
def categories() -> dict[str, Category]:
    return {name: Category(Path(name), "main", name) for name in (*NAMES, "commits_held_out")}


def test_rates_contexts_and_infilling_are_the_reports() -> None:
    phases = load_recipe("quickstart_full").phases
    peaks = [phase.learning_rate.peak for phase in phases]
    assert peaks[0] == peaks[1] and peaks[1] / peaks[2] == pytest.approx(10**0.5)
    assert peaks[1] / peaks[3] == pytest.approx(10)
    assert phases[3].sequence_length == 8 * phases[0].sequence_length
    assert [phase.fim for phase in phases] == [0.5, 0.5, 0.1, 0.1]


def test_tokens_are_shared_out_as_in_the_report() -> None:
    tokens = [phase.tokens for phase in load_recipe("quickstart_full").phases]
    assert [share * sum(tokens) / 6 for share in (1, 4, 0.4, 0.6)] == pytest.approx(tokens)


def test_only_whole_files_of_code_are_split_in_continued_pretraining() -> None:
    for phase in load_recipe("quickstart_full").phases[2:]:
        plain = {source.name for source in phase.blend if source.fim == 0}
        assert plain == {"commits", "web", "repositories"}


def test_all_but_the_last_phase_end_with_an_evaluation() -> None:
    recipe = load_recipe("quickstart_full")
    ends = list(accumulate(phase.steps for phase in recipe.phases))
    assert [end % recipe.evaluation.every_steps for end in ends[:-1]] == [0, 0, 0]


def test_weights_become_shares(categories: dict[str, Category], tmp_path: Path) -> None:
    recipe = load_recipe("quickstart_full")
    made = _mixture(FullConfig(run_dir=tmp_path), recipe, categories)
    assert set(made.categories) == set(NAMES)  # what is held out is in no phase
    for phase in made.phases:
        assert sum(amount.share for amount in phase.blend.values()) == pytest.approx(1)
    assert made.rate(made.phases[2], "commits") == 0 and made.rate(made.phases[2], "high_quality") == 0.1


def test_a_source_that_is_no_category_is_named(categories: dict[str, Category], tmp_path: Path) -> None:
    recipe = load_recipe("quickstart_full", ["phases.0.blend.0.name=wob"])
    with pytest.raises(SeedError, match=r"phase web: no category wob; there are github, web, math_web"):
        _mixture(FullConfig(run_dir=tmp_path), recipe, categories)


def test_the_first_phase_reads_code_related_and_mathematical_web() -> None:
    phases = load_recipe("quickstart_full").phases
    assert [source.name for source in phases[0].blend] == ["web", "math_web"]
    assert not any(source.name == "math_web" for phase in phases[1:] for source in phase.blend)


def test_a_category_that_there_is_too_little_of_is_read_by_no_phase(
    categories: dict[str, Category], tmp_path: Path
) -> None:
    asked = FullConfig(run_dir=tmp_path, overrides=("phases.0.blend.1.weight=3", "model.num_layers=2"))
    config = without(asked, "math_web")
    recipe = recipe_of(config)
    del categories["math_web"]
    made = _mixture(config, recipe, categories)
    assert set(made.categories) == set(NAMES) - {"math_web"} and recipe.model.num_layers == 2
    assert made.phases[0].blend["web"].share == 1
    before = [source.name for source in recipe_of(asked).evaluation.held_out]
    assert [source.name for source in recipe.evaluation.held_out] == [name for name in before if name != "math_web"]
    assert recipe.phases[1:] == recipe_of(asked).phases[1:]
    assert without(config, "math_web") == config


def test_each_category_is_built_at_the_rates_that_phases_read(categories: dict[str, Category]) -> None:
    rates = _rates(load_recipe("quickstart_full"), categories)
    assert (
        rates["github"] == [0.1, 0.5]
        and rates["web"] == [0.0, 0.5]
        and rates["math_web"] == [0.5]
        and rates["commits_held_out"] == [0.0]
    )


def test_an_epoch_of_split_documents_needs_a_build_of_its_own() -> None:
    builds = {name: {"builds": name} for name in ("github", "web")}
    phases = [
        {"name": "one", "fim": 0.5, "blend": {"github": {"epochs": 2.4}, "web": {"epochs": 7, "fim": 0}}},
        {"name": "two", "fim": 0.5, "blend": {"github": {"epochs": 0.5}}},
        {"name": "three", "fim": 0.1, "blend": {"github": {"epochs": 0.7}}},
    ]
    rates = {"github": (0.1, 0.5), "web": (0.0,)}
    found = {
        name: [Build(f"{name}{rate}", 1000, 10, False, rate, "0:1", ("t", 8), name, f"{name}{rate}") for rate in those]
        for name, those in rates.items()
    }
    planned = plan(MixtureConfig.model_validate({"categories": builds, "phases": phases}), found)
    assert _epochs_needed(planned) == {"github": 3, "web": 1}


def test_the_run_reads_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "a: b = 1e3"
    config = FullConfig(run_dir=run, overrides=("phases.1.blend.0.weight=2", "model.num_layers=2"))
    for phase in recipe_of(config).phases:
        path = run / "mixtures" / phase.name / "blend.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"- {{name: x, builds: '{run}/builds/x', weight: 1.0}}\n")
    recipe = _with_paths(config)
    assert recipe.run_dir == run / "train" and recipe.model.num_layers == 2
    assert recipe.evaluation.held_out[0].builds == (f"{run}/builds/github/held_out-fim0.0-epoch0",)
    assert load_recipe(run / "recipe.yaml") == recipe


def test_what_was_asked_for_is_plain_values(tmp_path: Path) -> None:
    one = FullConfig(run_dir=tmp_path, corpus=Path("."), benchmarks=(Path("b.jsonl"),))
    assert one.asked()["corpus"] == str(Path.cwd())
    assert one.asked() == FullConfig(run_dir=tmp_path / "x", corpus=Path.cwd(), benchmarks=(Path("b.jsonl"),)).asked()
    assert one.asked() != FullConfig(run_dir=tmp_path, corpus=Path("."), pages=7).asked()
