"""Phases that need a model built anew: a run goes on where its checkpoint stands, whichever of them that is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import Recipe, StartFrom
from megatron_seed.train import guard, metrics, resume, rollback, run

MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}
FIRST, SECOND = 6, 5
"""Steps of the two phases."""


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[[str], Recipe]:
    def make(name: str) -> Recipe:
        common = {
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": tiny_builds["train"]}],
            "sequence_length": 16,
            "global_batch_size": 4,
        }
        first = {"name": "first", "tokens": FIRST * 4 * 16, **common}
        second = {"name": "second", "tokens": SECOND * 4 * 16, "layout": {"recompute": "full"}, **common}
        return load_recipe(
            tiny_recipe(name, model=MODEL, phases=[first, second], checkpoint={"every_steps": 4, "keep_last": 9})
        )

    return make


def losses(recipe: Recipe) -> list[float]:
    return [row["loss"] for row in metrics.read(recipe.run_dir) if row["kind"] == "train"]


def damage(checkpoint: Path) -> None:
    victim = checkpoint / "common.pt"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def test_the_rest_of_a_phase_is_trained_when_the_checkpoint_after_it_is_damaged(
    recipe: Callable[[str], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, damaged = recipe("whole"), recipe("damaged")
    run.train(whole)
    train_stretch, trained = run._train_stretch, []

    def train_and_damage(*given: Any) -> Any:
        progress = train_stretch(*given)
        if not trained:
            damage(finished(damaged.run_dir)[-1])
        trained.append(progress.step)
        return progress

    monkeypatch.setattr(run, "_train_stretch", train_and_damage)
    assert run.train(damaged).consumed_tokens == (FIRST + SECOND) * 4 * 16
    assert trained == [FIRST, FIRST, FIRST + SECOND]
    assert losses(damaged) == losses(whole)


def test_a_run_that_goes_back_to_an_earlier_phase_trains_the_rest_of_it(
    recipe: Callable[[str], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first three updates of the second phase are left out, and the checkpoint between the phases is damaged."""
    whole, faulty = recipe("whole"), recipe("faulty")
    run.train(whole)
    compute, calls, newest_good = guard.compute_gradients, iter(range(1, 10**6)), rollback.newest_good

    def wrong_in_between(*given: Any) -> Any:
        gradients = compute(*given)
        wrong = FIRST < next(calls) <= FIRST + 2 * faulty.guard.max_skips
        return dataclasses.replace(gradients, loss=math.nan) if wrong else gradients

    def damaged_first(*given: Any) -> Any:
        damage(step_dir(faulty.run_dir, FIRST))
        return newest_good(*given)

    monkeypatch.setattr(guard, "compute_gradients", wrong_in_between)
    monkeypatch.setattr(rollback, "newest_good", damaged_first)
    assert run.train(faulty).consumed_tokens == (FIRST + SECOND) * 4 * 16
    (rolled_back,) = [row for row in metrics.read(faulty.run_dir) if row.get("event") == "rolled_back"]
    assert rolled_back["to_step"] == 4
    assert losses(faulty)[:FIRST] == losses(whole)[:FIRST] and len(losses(faulty)) == FIRST + SECOND


def test_all_ranks_begin_with_the_checkpoint_that_the_main_one_found(
    recipe: Callable[[str], Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent may be saving while they look."""
    mains, theirs = tmp_path / "step-00000010", tmp_path / "step-00000020"
    monkeypatch.setattr(resume, "newest_good", lambda *_: None)
    monkeypatch.setattr(resume, "resolve", lambda _: theirs)
    monkeypatch.setattr(resume, "find_damage_together", lambda *_: None)
    branch = recipe("branch").model_copy(update={"start_from": StartFrom(checkpoint=tmp_path)})
    assert resume.find_start(branch, SimpleNamespace(from_main=lambda _: (None, mains))).checkpoint == mains
