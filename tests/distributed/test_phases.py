"""Runs that change on the way: phases of other lengths, batches and layouts, ramps, branches, documents kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_parity import largest_difference, losses, parameters, tensors

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.checkpoint.state import read_progress
from megatron_seed.config.load import load_recipe
from megatron_seed.data.loader import cursors_after
from megatron_seed.train import metrics

MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "max_sequence_length": 2048}


def phases(builds: dict[str, str], layout: dict | None = None) -> list[dict]:
    blend = [{"name": "a", "builds": builds["train"]}, {"name": "b", "builds": builds["held_out"], "weight": 0.5}]
    common = {"blend": blend, "learning_rate": 1e-3}
    first = {"name": "short", "tokens": 3 * 4 * 512, "sequence_length": 512, "global_batch_size": 4, **common}
    second = {
        "name": "long",
        "tokens": 2 * 2 * 2048,
        "sequence_length": 2048,
        "global_batch_size": 2,
        "rotary_base": 1e6,
        **common,
    }
    return [first, second | ({"layout": layout} if layout else {})]


def test_a_run_crosses_into_longer_sequences_and_context_parallelism(
    tiny_builds: dict[str, str], tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    alone = tiny_recipe("alone", phases=phases(tiny_builds), model=MODEL)
    start("-m", "megatron_seed.train", alone)
    split = tiny_recipe("split", phases=phases(tiny_builds, {"context_parallel": 2, "recompute": "full"}), model=MODEL)
    start("-m", "megatron_seed.train", split, processes=2)
    expected, run_dir = losses(alone.with_suffix("")), split.with_suffix("")
    assert len(expected) == 5
    assert losses(run_dir) == pytest.approx(expected, abs=1e-5)
    rows = [row for row in metrics.read(run_dir) if row["kind"] == "train"]
    assert [row["tokens"] for row in rows] == [2048, 4096, 6144, 10240, 14336]
    assert [row["phase"] for row in rows] == ["short"] * 3 + ["long"] * 2
    given = read_progress(finished(run_dir)[-1])
    assert given.consumed_tokens == 14336
    assert largest_difference(parameters(finished(run_dir)[-1]), parameters(finished(alone.with_suffix(""))[-1])) < 1e-4


def test_a_run_stopped_at_the_border_of_phases_goes_on_bit_equal(
    tiny_builds: dict[str, str], tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    saves = {"every_steps": 1, "keep_last": 10}
    whole = tiny_recipe("whole", phases=phases(tiny_builds), model=MODEL, checkpoint=saves)
    start("-m", "megatron_seed.train", whole)
    for step in (2, 3, 4):
        branch = tiny_recipe(
            f"from{step}",
            phases=phases(tiny_builds),
            model=MODEL,
            start_from={"checkpoint": str(step_dir(whole.with_suffix(""), step))},
        )
        start("-m", "megatron_seed.train", branch)
        assert losses(branch.with_suffix("")) == losses(whole.with_suffix(""))[step:]
        one, other = (tensors(finished(run.with_suffix(""))[-1]) for run in (branch, whole))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        parent = str(step_dir(whole.with_suffix(""), step))
        assert {read_progress(path).parent for path in finished(branch.with_suffix(""))} == {parent}


def test_batches_grow_with_the_tokens(
    tiny_builds: dict[str, str], tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    ramp = {"start": 2, "increment": 2, "tokens": 32 * 20}
    recipe = tiny_recipe("ramp")
    start("-m", "megatron_seed.train", recipe, f"phases.0.batch_ramp={ramp}", "phases.0.tokens=1600", processes=2)
    tokens = [row["tokens"] for row in metrics.read(recipe.with_suffix("")) if row["kind"] == "train"]
    sizes = [(after - before) // 32 for before, after in zip([0, *tokens], tokens, strict=False)]
    assert sizes[0] == 2 and sizes[-1] == 8 and sizes == sorted(sizes) and set(sizes) == {2, 4, 6, 8}
    assert tokens[-1] >= 1600 > tokens[-2]


@pytest.mark.parametrize(
    ("processes", "layout"), [(1, {}), (2, {"context_parallel": 2}), (2, {"pipeline_parallel": 2})], ids=str
)
def test_masked_documents_train_alike_on_every_layout(
    processes: int, layout: dict, tiny_recipe: Callable[..., Path], start: Callable, trained: dict
) -> None:
    recipe = tiny_recipe("masked", layout=layout)
    changes = ("phases.0.document_mask=true", "phases.0.micro_batch_size=2", "phases.0.tokens=2560")
    start("-m", "megatron_seed.train", recipe, *changes, processes=processes)
    found = losses(recipe.with_suffix(""))
    assert found == pytest.approx(trained.setdefault("masked", found), abs=1e-5)


@pytest.fixture(scope="module")
def trained() -> dict[str, list[float]]:
    return {}


def test_a_new_rate_takes_effect_on_resume_and_is_said_once(tiny_recipe: Callable[..., Path], start: Callable) -> None:
    recipe = tiny_recipe("rate")
    start("-m", "megatron_seed.train", recipe, "phases.0.tokens=2560")
    result = start("-m", "megatron_seed.train", recipe, "phases.0.learning_rate=1e-4")
    assert result.stderr.count("the learning rate is now") == 1
    rates = [row["learning_rate"] for row in metrics.read(recipe.with_suffix("")) if row["kind"] == "train"]
    assert rates == [3e-3] * 10 + [1e-4] * 10


def test_a_changed_blend_neither_repeats_nor_skips(
    tiny_builds: dict[str, str], tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    blend = [{"name": "a", "builds": tiny_builds["train"]}, {"name": "b", "builds": tiny_builds["held_out"]}]
    recipe = tiny_recipe("blend")
    start("-m", "megatron_seed.train", recipe, f"phases.0.blend={blend}", "phases.0.tokens=2560")
    blend[1]["weight"] = 3.0
    result = start("-m", "megatron_seed.train", recipe, f"phases.0.blend={blend}")
    assert "sources go on from where they stand" in result.stderr
    checkpoint = finished(recipe.with_suffix(""))[-1]
    stands, changed = read_progress(checkpoint), load_recipe(checkpoint / "recipe.yaml")
    assert {name: cursor.given for name, cursor in stands.cursors.items()} == {"a": 40 * 32, "b": 40 * 32}
    given = cursors_after(changed.phases[0], changed.seed, stands.cursors, stands.blend, stands.segment_samples)
    # Ten steps of eight sequences at one to one, ten at one to three.
    assert {name: cursor.given for name, cursor in given.items()} == {"a": 60 * 32, "b": 100 * 32}


def test_weights_alone_start_a_run_of_its_own(tiny_recipe: Callable[..., Path], start: Callable) -> None:
    parent = tiny_recipe("parent")
    start("-m", "megatron_seed.train", parent)
    child = tiny_recipe(
        "child",
        start_from={"checkpoint": str(parent.with_suffix("")), "load": "weights", "cursors": "fresh"},
    )
    start("-m", "megatron_seed.train", child, "phases.0.tokens=2560")
    found = losses(child.with_suffix(""))
    assert len(found) == 10 and found[0] < losses(parent.with_suffix(""))[0] - 0.5
    assert read_progress(finished(child.with_suffix(""))[-1]).step == 10
