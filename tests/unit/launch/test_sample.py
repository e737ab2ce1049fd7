"""`data sample`: what is shown of a recipe is what its training reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_prep.build import build
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.inspect.show import Shown
from data_prep.select import SelectionConfig, select
from launch.cli import app
from launch.sample import show_samples
from megatron_seed.config.load import dump_recipe, parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError

LENGTH, BATCH = 64, 4


@pytest.fixture(scope="module")
def recipe_of(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """A recipe of two phases over two sources, of builds made from text."""
    folder = tmp_path_factory.mktemp("sample")
    for name in ("one", "two"):
        for number in range(30):
            path = folder / name / f"r{number}" / "a.py"
            path.parent.mkdir(parents=True)
            path.write_text(f"def {name}_{number}():\n    return '{number * 'xy'}'\n" * (1 + number % 4))
        corpus = folder / f"{name}-corpus"
        import_documents([SourceSpec("auto", str(folder / name), name)], corpus, ImportLimits(), 1)
        config = SelectionConfig.model_validate({"rules": [], "held_out": {"fraction": 0.1}})
        select(corpus, "main", config)
        build(corpus, "main", tokenizer_dir, folder / "builds" / name, "train", [0.5], [0, 1], 1234, 1)

    def make(**changes: object) -> Recipe:
        builds = {n: [f"{folder}/builds/{n}/train-fim0.5-epoch{e}" for e in (0, 1)] for n in ("one", "two")}
        phase = {
            "tokens": 6 * BATCH * LENGTH,
            "learning_rate": 1e-3,
            "blend": [{"name": name, "builds": prefixes, "weight": 1} for name, prefixes in builds.items()],
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "shuffle_block": 8,
        }
        values = {
            "name": "n",
            "run_dir": str(folder / "run"),
            "model": {"preset": "seed_coder_tiny", "vocab_size": 383},
            "tokenizer": str(tokenizer_dir),
            "phases": [{"name": "p", **phase}, {"name": "q", **phase, "sequence_length": LENGTH // 2}],
        }
        return parse_recipe({**values, **changes}, "test")

    return make


def ids_of(shown: list[Shown]) -> list[int]:
    return [number for one in shown for stretch in one.stretches for number in stretch.ids]


def by_sample(shown: Iterable[Shown]) -> list[list[Shown]]:
    samples: list[list[Shown]] = []
    for one in shown:
        if one.is_new_sequence:
            samples.append([])
        samples[-1].append(one)
    return samples


def test_the_tokens_are_those_of_the_training(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of()
    data = PhaseData.open(recipe.phases[0], recipe.seed, recipe.model.vocab_size, {})
    samples = by_sample(show_samples(recipe, recipe.phases[0], list(range(24))))
    assert len(samples) == 24
    for number, shown in enumerate(samples):
        assert ids_of(shown) == data.sample(number)[:-1].tolist()
        stream, pieces = data.pieces(number)
        for one, piece in zip(shown, pieces, strict=True):
            assert one.place.source == stream.name
            assert one.title == f"sample {number}, {stream.name}, epoch {piece.epoch}, document {piece.document}"
    kinds = {stretch.kind for shown in samples for one in shown for stretch in one.stretches}
    assert {"text", "suffix", "prefix", "middle", "special"} <= kinds
    # A sample may begin in the middle of a part; it is shown as one.
    begun = {shown[0].stretches[0].kind for shown in samples if shown[0].stretches[0].first > 1}
    assert {"suffix", "prefix"} & begun


def test_a_second_phase_goes_on_where_the_first_one_stopped(recipe_of: Callable[..., Recipe]) -> None:
    """No token is shown twice within an epoch, over all samples of both."""
    recipe = recipe_of()
    seen: Counter[tuple[str, int]] = Counter()
    for phase in recipe.phases:
        for one in show_samples(recipe, phase, list(range(phase.steps * BATCH))):
            document = one.title.partition(", ")[2]
            seen.update((document, s.first + n) for s in one.stretches for n in range(len(s.ids)))
    assert max(seen.values()) == 1
    assert seen.total() == sum(phase.steps * BATCH * phase.sequence_length for phase in recipe.phases)


def test_the_command_shows_samples_with_their_borders(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe_of()))
    result = CliRunner().invoke(app, ["data", "sample", str(path), "--phase", "q", "--sample", "0", "--sample", "3"])
    assert result.exit_code == 0, result.output
    assert result.output.count("═══") >= 2 and "sample 3, " in result.output and "/a.py" in result.output
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["data", "sample", str(path), "--out", str(page)])
    assert "1 samples of n, phase p" in result.output and "<section" in page.read_text()


def test_refusals(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="names no tokenizer"):
        list(show_samples(recipe_of(tokenizer=None), recipe_of().phases[0], [0]))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe_of()))
    result = CliRunner().invoke(app, ["data", "sample", str(path), "--phase", "r"])
    assert "no phase 'r'; its phases: p, q" in str(result.exception)
    result = CliRunner().invoke(app, ["data", "sample", str(path), "--sample", "24"])
    assert "n: phase p has samples 0 to 23, and no 24" in str(result.exception)


def test_tokens_without_loss_are_those_that_training_does_not_count(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of()
    (one, *_), (two, *_) = (source.builds for source in recipe.phases[0].blend)
    for prefix in (one, two):
        path = Path(f"{prefix}.manifest.json")
        manifest = json.loads(path.read_text())
        if "loss" not in manifest:
            np.save(f"{prefix}.loss_starts.npy", np.arange(manifest["documents"], dtype=np.int32) * 7 % 50)
            path.write_text(json.dumps(manifest | {"loss": {"on": "target", "starts": "s", "tokens": 9}}))
    phase = recipe.phases[0]
    first, second = phase.blend
    targets = first.model_copy(update={"builds": (one,)}), second.model_copy(update={"builds": (two,), "loss": "all"})
    phase = phase.model_copy(update={"blend": targets})
    recipe = recipe.model_copy(update={"phases": (phase,)})
    data = PhaseData.open(phase, recipe.seed, recipe.model.vocab_size, {})
    for number, shown in enumerate(by_sample(show_samples(recipe, phase, list(range(12))))):
        told = [stretch.has_loss for one in shown for stretch in one.stretches for _ in stretch.ids]
        counted = data.counted(number)
        assert told[1:] == (np.ones(LENGTH - 1, bool) if counted is None else counted[:-1]).tolist()
        assert (counted is None) == (data.pieces(number)[0].name == "two")
