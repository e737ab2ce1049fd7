"""Where runs go on: branches into recipes of other phases, changed schedules, and what they have still to read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.checkpoint.manifest import write_manifest
from megatron_seed.checkpoint.state import Progress, read_progress
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data import order
from megatron_seed.data.cursor import Cursor
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.train import guard, metrics
from megatron_seed.train.standing import by_the_recipe_now, reading_of, steps_left

LENGTH, BATCH = 16, 4
STEP = LENGTH * BATCH
MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[..., Recipe]:
    """A recipe of phases `{name: steps}` over both builds."""

    def make(name: str, phases: dict[str, int], *overrides: str, **changes: Any) -> Recipe:
        blend = [{"name": source, "builds": prefix} for source, prefix in tiny_builds.items()]
        common = {"learning_rate": 3e-3, "blend": blend, "sequence_length": LENGTH, "global_batch_size": BATCH}
        values = [{"name": phase, "tokens": steps * STEP, "shuffle_block": 5, **common} for phase, steps in
                  phases.items()]  # fmt: skip
        defaults = {"model": MODEL, "checkpoint": {"every_steps": 1000, "keep_last": 10}, "phases": values}
        return load_recipe(tiny_recipe(name, **(defaults | changes)), overrides)

    return make


def train(recipe: Recipe) -> list[float]:
    from megatron_seed.train.run import train

    train(recipe)
    return [row["loss"] for row in metrics.read(recipe.run_dir) if row["kind"] == "train"]


def newest(recipe: Recipe) -> Progress:
    return read_progress(finished(recipe.run_dir)[-1])


@pytest.mark.parametrize("stopped_after", [3, 2], ids=["its end", "the middle of a phase"])
def test_a_branch_into_other_phases_goes_on_as_one_run_would_have(
    stopped_after: int, recipe: Callable[..., Recipe]
) -> None:
    """As continued pretraining has it: its own recipe, begun with the checkpoint of another."""
    whole = train(recipe("whole", {"first": stopped_after, "second": 3}))
    parent = recipe("parent", {"first": 3}, checkpoint={"every_steps": 1})
    train(parent)
    child = recipe("child", {"second": 3}, f"from={parent.run_dir}@{stopped_after}")
    assert train(child) == whole[stopped_after:]
    assert newest(child).step == newest(child).consumed_tokens // STEP == stopped_after + 3
    assert newest(child).parent == str(step_dir(parent.run_dir, stopped_after))
    assert train(child) == whole[stopped_after:], "there is nothing left to do"


def test_the_shipped_recipe_for_continuing_goes_on_from_the_shipped_one() -> None:
    parent, child = load_recipe("seed_coder_8b/pretrain"), load_recipe("seed_coder_8b/continue")
    assert child.model == parent.model and child.seed == parent.seed and child.tokenizer == parent.tokenizer


def test_weights_with_inherited_cursors_leave_alone_what_the_parent_was_given(recipe: Callable[..., Recipe]) -> None:
    parent = recipe("parent", {"first": 3})
    train(parent)
    start = {"checkpoint": str(parent.run_dir), "load": "weights"}
    child = recipe("child", {"first": 2}, start_from=start)
    train(child)
    assert newest(child).step == 2
    given = {name: cursor.given for name, cursor in newest(child).cursors.items()}
    assert given == {"train": 3 * STEP // 2, "held_out": 3 * STEP // 2}


def test_everything_with_fresh_cursors_reads_from_the_beginning(recipe: Callable[..., Recipe]) -> None:
    parent = recipe("parent", {"first": 3})
    train(parent)
    child = recipe("child", {"first": 5}, start_from={"checkpoint": str(parent.run_dir), "cursors": "fresh"})
    train(child)
    segment = next(row for row in metrics.read(child.run_dir) if row["kind"] == "segment")
    assert (segment["step"], segment["cursors"], segment["segment_samples"]) == (3, {}, 0)
    assert newest(child).step == 5


def test_a_branch_from_nothing_is_refused_with_what_there_is(recipe: Callable[..., Recipe]) -> None:
    parent = recipe("parent", {"first": 2}, checkpoint={"every_steps": 1})
    train(parent)
    for place, told in ((f"{parent.run_dir}@7", "has those of the steps 1, 2"), ("nowhere", "nowhere: no checkpoint")):
        with pytest.raises(SeedError, match=f"start_from: .*{told}"):
            train(recipe("child", {"first": 3}, f"from={place}"))


def test_a_run_of_its_own_that_lost_its_phase_is_refused(recipe: Callable[..., Recipe]) -> None:
    train(recipe("run", {"first": 2}))
    with pytest.raises(SeedError, match="stands in phase 'first', which the recipe does not have; its phases: other"):
        train(recipe("run", {"other": 2}))


def said(before: Recipe, now: Recipe, tokens: int) -> list[str]:
    lines: list[str] = []
    standing = Progress(phase="first", phase_tokens=tokens, segment_samples=tokens // LENGTH)
    by_the_recipe_now(standing, before, now, lambda text, *facts: lines.append(text % facts))
    return lines


def test_a_budget_that_moves_a_schedule_is_said(recipe: Callable[..., Recipe]) -> None:
    cosine = "phases.0.learning_rate={schedule: cosine, peak: 1.0}"
    before, now = recipe("a", {"first": 4}, cosine), recipe("b", {"first": 8}, cosine)
    (line,) = said(before, now, 4 * STEP)
    assert "over 512 tokens, before 256: 0.5 at this point" in line and line.endswith("cosine, peak 1.0: 0")
    assert said(before, before, 4 * STEP) == []
    assert said(recipe("c", {"first": 4}), recipe("d", {"first": 8}), STEP) == [], "a constant rate stays"


def test_a_run_that_goes_on_in_a_later_phase_builds_no_model_of_the_ones_before(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from megatron_seed.train import run

    phases, rotary = {"first": 2, "second": 4}, "phases.1.rotary_base=1e6"
    whole = recipe("whole", phases, rotary, checkpoint={"every_steps": 1, "keep_last": 10})
    losses = train(whole)
    built, real = [], run.build_model
    monkeypatch.setattr(
        run, "build_model", lambda model, *a, **k: (built.append(model.rotary_base), real(model, *a, **k))[1]
    )
    branch = recipe("branch", phases, rotary, "phases.1.learning_rate=1e-3", f"from={whole.run_dir}@3")
    with caplog.at_level("INFO"):
        assert train(branch)[:1] == losses[3:4]
    assert built == [1e6]
    assert caplog.text.count("the learning rate is now constant, peak 0.001") == 1


def test_steps_that_are_left(recipe: Callable[..., Recipe]) -> None:
    two = recipe("two", {"first": 4, "second": 3})
    assert steps_left(two, Progress()) == 7
    assert steps_left(two, Progress(phase="first", phase_tokens=STEP + 1)) == 6
    assert steps_left(two, Progress(phase="second", phase_tokens=3 * STEP)) == 0


def test_another_mixture_may_have_other_losses(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be a spike within a phase is none where the next begins."""
    real, calls = guard.compute_gradients, iter(range(1, 1000))
    higher = lambda *a: dataclasses.replace(real(*a), loss=2.0 if next(calls) <= 6 else 9.0)  # noqa: E731
    monkeypatch.setattr(guard, "compute_gradients", higher)
    crossing = recipe("crossing", {"first": 6, "second": 6}, guard={"spike_window": 4})
    assert train(crossing) == [2.0] * 6 + [9.0] * 6
    assert not [row for row in metrics.read(crossing.run_dir) if row["kind"] == "event"]


@pytest.mark.parametrize("resumes", [False, True], ids=["a branch", "a run that goes on"])
def test_no_order_of_documents_is_made_once_processes_wait_for_each_other(
    resumes: bool, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent read several epochs; those that follow are made before the first collective, and no others."""
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 300)
    real, made = order.write_order, []

    def write(path: Path, what: order.Order) -> None:
        made.append(dist.is_initialized())
        real(path, what)

    monkeypatch.setattr(order, "write_order", write)
    parent = recipe("parent", {"first": 2})
    train(parent)
    epoch = sum(PhaseData.open(parent.phases[0], 1, 120, {}).streams[0].builds[0].document_lengths)
    far = {name: Cursor(frontier=3 * int(epoch) + 7) for name in ("train", "held_out")}
    state = newest(parent).new_segment(far)
    checkpoint = finished(parent.run_dir)[-1]
    (checkpoint / "state.json").write_text(state.model_dump_json())
    write_manifest(checkpoint)
    if resumes:
        child = parent.model_copy(update={"phases": (parent.phases[0].model_copy(update={"tokens": 4 * STEP}),)})
    else:
        child = recipe("child", {"second": 2}, f"from={parent.run_dir}")
    first = reading_of(child)
    assert set(first.begins.values()) == {3 * int(epoch) + 7}
    assert [phase.tokens for phase in first.phases] == [2 * STEP]
    made.clear()
    train(child)
    assert made and not any(made)
