"""Signals and the wall clock: noticed wherever a run is, acted on where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.manifest import find_damage
from megatron_seed.checkpoint.reader import CheckpointReader, read_state
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data import order
from megatron_seed.data.loader import PhaseData
from megatron_seed.runtime.signals import StoppedEarly, StopRequest
from megatron_seed.train import guard, metrics, run
from megatron_seed.train.hooks import evaluate, save

MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}
STEPS = 8


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[..., Recipe]:
    def make(name: str = "run", **changes: Any) -> Recipe:
        phase = {
            "name": "main",
            "tokens": STEPS * 4 * 16,
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": tiny_builds["train"]}],
            "sequence_length": 16,
            "global_batch_size": 4,
        }
        held_out = {"held_out": [{"name": "unseen", "builds": tiny_builds["held_out"]}], "every_steps": 4}
        held_out |= {"micro_batch_size": 1, "max_sequences": 64}
        defaults = {"model": MODEL, "checkpoint": {"every_steps": 4}, "phases": [phase], "evaluation": held_out}
        return load_recipe(tiny_recipe(name, **(defaults | changes)))

    return make


def kill_in(patch: pytest.MonkeyPatch, place: Any, name: str, call: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal on the n-th call of a function."""
    real, calls = getattr(place, name), iter(range(1, 10**6))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **named)

    patch.setattr(place, name, wrapped)


def tensors(recipe: Recipe) -> dict[str, bytes]:
    reader = CheckpointReader(finished(recipe.run_dir)[-1])
    return {key: reader.read(key).numpy().tobytes() for key in [*reader.tensors, *reader.optimizer_tensors]}


def numbers(recipe: Recipe, kind: str) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in metrics.read(recipe.run_dir) if row["kind"] == kind]


@pytest.fixture
def whole(recipe: Callable[..., Recipe]) -> Recipe:
    """A run that nothing stopped."""
    made = recipe("whole")
    run.train(made)
    return made


@pytest.mark.parametrize(
    ("place", "name", "call", "number", "step"),
    [
        pytest.param(guard, "compute_gradients", 3, signal.SIGTERM, 3, id="training"),
        pytest.param(guard, "compute_gradients", 6, signal.SIGUSR1, 6, id="training, SIGUSR1"),
        pytest.param(guard, "compute_gradients", 2, signal.SIGINT, 2, id="training, Ctrl-C"),
        pytest.param(evaluate, "evaluate", 10, signal.SIGTERM, 4, id="evaluating"),
        pytest.param(evaluate, "evaluate", 18, signal.SIGTERM, 8, id="evaluating at the end"),
        pytest.param(run, "build_model", 1, signal.SIGTERM, 0, id="building the model"),
    ],
)
def test_a_signal_ends_the_run_saved_and_the_next_goes_on_as_if_nothing_had_been(
    place: Any, name: str, call: int, number: int, step: int,
    recipe: Callable[..., Recipe], whole: Recipe, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stopped = recipe("stopped")
    with monkeypatch.context() as patch:
        kill_in(patch, place, name, call, number)
        with pytest.raises(StoppedEarly, match=f"stopped by {signal.Signals(number).name} after step {step}, saved"):
            run.train(stopped)
    assert [read_state(path)["step"] for path in finished(stopped.run_dir)][-1:] == ([step] if step else [])
    assert all(find_damage(path) is None for path in finished(stopped.run_dir))
    run.train(stopped)
    for kind in ("train", "evaluation"):
        assert numbers(stopped, kind) == numbers(whole, kind)
    assert tensors(stopped) == tensors(whole)
    ends = [row for row in metrics.read(stopped.run_dir) if row.get("event") == "stopped_early"]
    assert [(row["step"], row["reason"]) for row in ends] == [(step, signal.Signals(number).name)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_signal_while_saving_saves_once(
    asynchronous: bool, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = recipe("stopped", checkpoint={"every_steps": 4, "asynchronous": asynchronous})
    real = save.SaveHook.after_step

    def after_step(self: Any, record: Any) -> None:
        if record.progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, record)

    monkeypatch.setattr(save.SaveHook, "after_step", after_step)
    with pytest.raises(StoppedEarly, match="after step 4, saved"):
        run.train(stopped)
    assert [path.name for path in finished(stopped.run_dir)] == ["step-00000004"]


def test_a_signal_while_waiting_for_data(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system does not answer; the run is saved where it stands."""
    stopped, real = recipe("stopped"), PhaseData.micro_batches

    def stuck(self: PhaseData, first: int, *rest: Any) -> Any:
        if first == 5 * 4:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return real(self, first, *rest)

    monkeypatch.setattr(PhaseData, "micro_batches", stuck)
    began = time.monotonic()
    with pytest.raises(StoppedEarly, match="after step 5, saved"):
        run.train(stopped)
    assert time.monotonic() - began < 50
    assert read_state(finished(stopped.run_dir)[-1])["step"] == 5


def test_a_signal_while_building_indices(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = recipe("stopped")
    monkeypatch.setattr(order, "LARGE_DOCUMENTS", 1)
    kill_in(monkeypatch, order, "write_order", 1)
    with pytest.raises(StoppedEarly, match="stopped by SIGTERM; start the same command again"):
        run.train(stopped)
    assert not finished(stopped.run_dir)
    monkeypatch.undo()
    run.train(stopped)


def test_the_wall_clock_ends_a_run(recipe: Callable[..., Recipe]) -> None:
    stopped = recipe("stopped", stop={"wall_clock_s": 1.0, "margin_s": 0.5})
    with pytest.raises(StoppedEarly, match="stopped by the wall-clock limit"):
        run.train(stopped)


def test_the_end_of_a_slurm_job_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert StopRequest().reason is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    assert StopRequest(margin_s=900).reason is None
    assert StopRequest(margin_s=1001).reason == "the wall-clock limit"


def test_a_second_ctrl_c_interrupts() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
