"""Losses that cannot be right: computed twice, left out, gone back from; all in one process."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.state import Jump, Progress, read_progress
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import GuardConfig, Recipe
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.runtime.signals import StoppedEarly
from megatron_seed.trace import trace_step
from megatron_seed.train import guard, metrics, rollback
from megatron_seed.train.guard import judge, spike_threshold
from megatron_seed.train.rollback import jumped
from megatron_seed.watch.watchdog import Watchdog

BATCH, LENGTH, STEPS = 4, 16, 12
MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}
BAD = range(6 * BATCH, 9 * BATCH)
"""Samples of the steps 7, 8 and 9."""


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[..., Recipe]:
    def make(name: str = "run", **changes: Any) -> Recipe:
        phase = {
            "name": "main",
            "tokens": STEPS * BATCH * LENGTH,
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": tiny_builds["train"]}],
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
        }
        defaults = {"model": MODEL, "checkpoint": {"every_steps": 5}, "phases": [phase]}
        return load_recipe(tiny_recipe(name, **(defaults | changes)))

    return make


def train(recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of a whole run."""
    from megatron_seed.train.run import train

    train(recipe)
    return list(metrics.read(recipe.run_dir))


def losses(rows: list[dict[str, Any]]) -> list[float | None]:
    return [row["loss"] for row in rows if row["kind"] == "train"]


def events(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["event"], row["step"]) for row in rows if row["kind"] == "event"]


def spoil(patch: pytest.MonkeyPatch, wrong: Callable[[Any], bool], loss: float = math.nan) -> None:
    """Passes over batches of which `wrong` is true give `loss`."""
    real = guard.compute_gradients

    def computed(models: Any, optimizer: Any, batches: Any, groups: Any) -> Any:
        gradients = real(models, optimizer, batches, groups)
        return dataclasses.replace(gradients, loss=loss) if wrong(batches) else gradients

    patch.setattr(guard, "compute_gradients", computed)


def holds_bad_data(recipe: Recipe) -> Callable[[Any], bool]:
    data = PhaseData.open(recipe.phases[0], recipe.seed, None, {})
    bad = {data.sample(number)[:-1].tobytes() for number in BAD}
    return lambda batches: any(row.numpy().tobytes() in bad for batch in batches for row in batch["tokens"])


def nth(*calls: int) -> Callable[[Any], bool]:
    """True on these calls, counted from 1."""
    count: Iterator[int] = iter(range(1, 10**6))
    return lambda batches: next(count) in calls


def test_a_loss_that_comes_out_clean_the_second_time_was_hardware(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = train(recipe("clean"))
    spoil(monkeypatch, nth(4))
    rows = train(recipe("faulty"))
    assert losses(rows) == losses(clean)
    assert events(rows) == [("hardware_error", 4)]


def test_an_update_that_is_wrong_twice_is_left_out(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, nth(4, 5))
    rows = train(recipe("faulty"))
    assert events(rows) == [("update_skipped", 4)]
    assert [row["step"] for row in rows if row.get("skipped")] == [4]
    assert losses(rows)[3] is None, "what is no number is null in JSON"
    assert losses(rows)[2] == pytest.approx(losses(rows)[4], abs=0.5)


def test_a_spike_is_left_out(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nth(10, 11), loss=9.0)
    rows = train(recipe("spiky", guard={"spike_window": 8}))
    assert events(rows) == [("update_skipped", 10)]


def test_a_run_goes_back_and_past_bad_data(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-equal to a run on data that never had the bad range."""
    faulty, without = recipe("faulty"), recipe("without")
    with monkeypatch.context() as patch:
        real = PhaseData.sample
        patch.setattr(PhaseData, "sample", lambda self, n: real(self, n if n < BAD.start else n + len(BAD)))
        expected = train(without)
    spoil(monkeypatch, holds_bad_data(faulty))
    rows = train(faulty)
    assert losses(rows) == losses(expected)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert events(rows) == [("update_skipped", 7), ("update_skipped", 8), ("update_skipped", 9), ("rolled_back", 9)]
    rolled_back = next(row for row in rows if row.get("event") == "rolled_back")
    assert (rolled_back["to_step"], rolled_back["first_sample"], rolled_back["samples"]) == (5, BAD.start, len(BAD))
    left_out = [json.loads(line) for line in Path(rolled_back["documents"]).read_text().splitlines()]
    assert {piece["sample"] for piece in left_out} == set(BAD)
    assert sum(piece["tokens"] for piece in left_out) == len(BAD) * LENGTH
    assert read_progress(finished(faulty.run_dir)[-1]).jumps == (Jump(phase="main", first=BAD.start, stop=BAD.stop),)


def test_a_run_goes_back_though_the_documents_cannot_be_told(
    recipe: Callable[..., Recipe], tiny_builds: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in Path(tiny_builds["train"]).parent.glob("train*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "train.provenance.parquet").write_text("no parquet")
    faulty = recipe("faulty")
    source = faulty.phases[0].blend[0].model_copy(update={"builds": (str(tmp_path / "train"),)})
    phase = faulty.phases[0].model_copy(update={"blend": (source,)})
    faulty = faulty.model_copy(update={"phases": (phase,)})
    spoil(monkeypatch, holds_bad_data(faulty))
    rows = train(faulty)
    rolled_back = next(row for row in rows if row.get("event") == "rolled_back")
    assert (rolled_back["to_step"], rolled_back["first_sample"], rolled_back["documents"]) == (5, BAD.start, None)
    assert "train.provenance.parquet" in rolled_back["why_not"]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))


def test_going_back_is_given_the_time_of_a_start(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    beat, load = Watchdog.beat, rollback.load_start
    monkeypatch.setattr(
        Watchdog,
        "beat",
        lambda self, what, starting=False: order.append(f"{what} {starting}") or beat(self, what, starting=starting),
    )
    monkeypatch.setattr(rollback, "load_start", lambda *given: order.append("loads") or load(*given))
    faulty = recipe("faulty")
    spoil(monkeypatch, holds_bad_data(faulty))
    train(faulty)
    assert order[order.index("loads") - 1] == "step 9 True"


def test_a_run_told_to_stop_between_left_out_updates_saves_nothing(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be what the run goes back to, though its parameters may be what is wrong."""
    faulty, expected = recipe("faulty"), losses(train(recipe("clean")))
    with monkeypatch.context() as patch:

        def wrong(number: int) -> bool:
            if number == 9:  # step 7, once more
                os.kill(os.getpid(), signal.SIGTERM)
            return number >= 6

        calls = iter(range(1, 10**6))
        spoil(patch, lambda batches: wrong(next(calls)))
        with pytest.raises(StoppedEarly, match="stopped by SIGTERM after step 7; start the same command again"):
            train(faulty)
    assert [path.name for path in finished(faulty.run_dir)] == ["step-00000005"]
    assert losses(train(faulty)) == expected


def test_trace_knows_of_the_jump(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = recipe("faulty")
    data = PhaseData.open(faulty.phases[0], faulty.seed, None, {})
    spoil(monkeypatch, holds_bad_data(faulty))
    train(faulty)
    for step, first in ((6, 5 * BATCH), (7, BAD.stop), (8, BAD.stop + BATCH)):
        expected = [piece.document for n in range(first, first + BATCH) for piece in data.pieces(n)[1]]
        assert [piece.document for piece in trace_step(faulty.run_dir, step)] == expected


def test_a_jump_survives_a_restart(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = recipe("faulty", checkpoint={"every_steps": 1})
    spoil(monkeypatch, holds_bad_data(faulty))
    expected = losses(train(faulty))
    halved = faulty.model_copy(update={"run_dir": faulty.run_dir.with_name("halved")})
    first = halved.phases[0].model_copy(update={"tokens": 10 * BATCH * LENGTH})
    train(halved.model_copy(update={"phases": (first,)}))
    assert losses(train(halved)) == expected


def test_a_run_that_cannot_get_on_ends(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nth(*range(7, 1000)))
    with pytest.raises(SeedError, match="3 updates left out in a row, after going back 2 times: the run has diverged"):
        train(recipe("lost", guard={"max_rollbacks": 2}))


def test_the_window_of_losses_survives_a_restart(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run that was killed could go another way than one that was not."""
    spiky = recipe("spiky", guard={"spike_window": 12})
    half = spiky.phases[0].model_copy(update={"tokens": 8 * BATCH * LENGTH})
    train(spiky.model_copy(update={"phases": (half,)}))
    spoil(monkeypatch, nth(1, 2), loss=9.0)
    assert events(train(spiky)) == [("update_skipped", 9)]


@given(st.lists(st.floats(1.0, 5.0), min_size=64, max_size=128))
def test_no_loss_of_an_ordinary_window_is_a_spike(window: list[float]) -> None:
    config = GuardConfig(spike_minimum=5.0)
    assert all(judge(config, window, loss, 1.0) is None for loss in window)


def test_what_is_no_number_is_wrong_and_a_quiet_window_forgives_little() -> None:
    config = GuardConfig(spike_window=8, spike_deviations=10.0, spike_minimum=0.5)
    assert judge(config, [], math.inf, 1.0) == "loss is inf"
    assert judge(config, [], 2.0, math.nan) == "gradient norm is nan"
    assert spike_threshold(config, [2.0] * 3) is None, "less than half of a window"
    assert spike_threshold(config, [2.0] * 8) == 2.5
    assert spike_threshold(config, [1.9, 2.0, 2.1, 2.2]) == pytest.approx(2.05 + 10 * 1.4826 * 0.1)
    assert spike_threshold(config.model_copy(update={"spike_deviations": 0.0}), [2.0] * 8) is None


def test_a_jump_is_taken_when_the_next_batch_would_touch_it() -> None:
    progress = Progress(phase="p", jumps=(Jump(phase="p", first=10, stop=20), Jump(phase="other", first=0, stop=99)))

    def lands(at: int) -> int:
        return jumped(progress.model_copy(update={"segment_samples": at}), 4).segment_samples

    assert [lands(at) for at in (0, 6, 7, 10, 19, 20)] == [0, 6, 20, 20, 20, 20]
