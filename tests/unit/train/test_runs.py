"""Whole runs of one process, two layers and few steps: what they leave behind, and what they go on from."""

from __future__ import annotations

import errno
import fcntl
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_seed.checkpoint.layout import finished, step_dir
from megatron_seed.checkpoint.manifest import find_damage
from megatron_seed.checkpoint.reader import CheckpointReader, read_state
from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.train import metrics

TRAIN_ROW = {
    "kind": str,
    "step": int,
    "tokens": int,
    "phase": str,
    "loss": float,
    "learning_rate": float,
    "grad_norm": float,
    "step_seconds": float,
    "data_seconds": float,
    "forward_backward_seconds": float,
    "optimizer_seconds": float,
    "evaluation_seconds": float,
    "save_seconds": float,
    "tokens_per_second": float,
    "tokens_per_second_per_device": float,
    "tflops_per_device_causal": float,
    "tflops_per_device_full": float,
    "peak_memory_bytes": int,
    "skipped": bool,
}
MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32}


@pytest.fixture
def run(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[..., Path]:
    """Trains a recipe of one or more phases `{name: steps}` in this process; returns its run folder."""

    def train(name: str = "run", *, phases: dict[str, int], **changes: Any) -> Path:
        from megatron_seed.train.run import train

        values = [
            {
                "name": phase,
                "tokens": steps * 4 * 16,
                "learning_rate": 3e-3,
                "blend": [{"name": "a", "builds": tiny_builds["train"]}],
                "sequence_length": 16,
                "global_batch_size": 4,
                "micro_batch_size": 2,
                "shuffle_block": 5,
            }
            for phase, steps in phases.items()
        ]
        defaults = {"model": MODEL, "checkpoint": {"every_steps": 1000}, "phases": values}
        recipe = load_recipe(tiny_recipe(name, **(defaults | changes)))
        train(recipe)
        return recipe.run_dir

    return train


def rows(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [row for row in metrics.read(run_dir) if row["kind"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in rows(run_dir)]


def held_out(tiny_builds: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {"held_out": [{"name": "unseen", "builds": tiny_builds["held_out"]}], "max_sequences": 7, **changes}


def test_a_run_leaves_metrics_events_and_checkpoints(run: Callable, tiny_builds: dict[str, str]) -> None:
    run_dir = run(
        phases={"main": 6},
        logging={"tensorboard": True, "wandb": "off", "every_steps": 2},
        evaluation=held_out(tiny_builds, every_steps=4),
        checkpoint={"every_steps": 4},
    )
    assert [row["step"] for row in rows(run_dir)] == [2, 4, 6]
    for row in rows(run_dir):
        assert {name: type(value) for name, value in row.items()} == TRAIN_ROW
        assert row["tokens"] == row["step"] * 4 * 16
        assert row["grad_norm"] > 0 and not row["skipped"]
    evaluations = rows(run_dir, "evaluation")
    assert [(row["step"], row["source"]) for row in evaluations] == [(0, "unseen"), (4, "unseen"), (6, "unseen")]
    assert evaluations[0]["loss"] == pytest.approx(math.log(120), abs=0.05)

    checkpoints = finished(run_dir)
    assert [path.name for path in checkpoints] == ["step-00000004", "step-00000006"]
    assert all(find_damage(path) is None for path in checkpoints)
    assert read_state(checkpoints[-1])["consumed_tokens"] == 6 * 4 * 16

    events = EventAccumulator(str(run_dir / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows(run_dir)
    ]
    assert {f"train/{name}" for name, kind in TRAIN_ROW.items() if kind is float} <= set(events.Tags()["scalars"])


def test_held_out_losses_are_charted_too(run: Callable, tiny_builds: dict[str, str]) -> None:
    run_dir = run(
        phases={"main": 2},
        logging={"tensorboard": True, "wandb": "off"},
        evaluation=held_out(tiny_builds, every_steps=2),
    )
    scalars = EventAccumulator(str(run_dir / "events")).Reload()
    (tag,) = [tag for tag in scalars.Tags()["scalars"] if tag.startswith("evaluation") and tag.endswith("loss")]
    expected = [(row["step"], pytest.approx(row["loss"])) for row in rows(run_dir, "evaluation")]
    assert [(event.step, event.value) for event in scalars.Scalars(tag)] == expected


def test_an_offline_wandb_run_is_kept_when_asked_for(run: Callable) -> None:
    run_dir = run(phases={"main": 2}, logging={"tensorboard": False, "wandb": "offline"})
    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    assert b"train/loss" in record.read_bytes()
    assert not (run_dir / "events").exists()


def test_nothing_is_charted_when_not_asked_for(run: Callable) -> None:
    run_dir = run(phases={"main": 1})
    assert {path.name for path in run_dir.iterdir()} == {".lock", "config.yaml", "metrics.jsonl", "checkpoints"}


def test_a_folder_of_events_that_cannot_be_made_does_not_stop_the_run(
    run: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events").write_text("in the way")
    assert len(rows(run(phases={"main": 1}, logging={"tensorboard": True, "wandb": "off"}))) == 1
    assert "TensorBoard did not start, going on without it" in caplog.text


def test_a_wandb_that_cannot_start_does_not_stop_the_run(
    run: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def fails(**settings: Any) -> None:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fails)
    run_dir = run(phases={"main": 2}, logging={"tensorboard": False, "wandb": "online"})
    assert len(rows(run_dir)) == 2
    assert "wandb did not start, going on without it: no route to host" in caplog.text


def test_where_nothing_can_be_locked_a_run_says_so_and_goes_on(
    run: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    assert len(losses(run(phases={"main": 2}))) == 2
    assert "cannot be locked" in caplog.text


def test_evaluation_does_not_depend_on_how_it_is_batched(run: Callable, tiny_builds: dict[str, str]) -> None:
    """Seven sequences in micro-batches of one, of four (the last one filled up) and of ten (more than there are)."""
    found = []
    for size in (1, 4, 10):
        options = {"phases": {"main": 1}, "evaluation": held_out(tiny_builds, micro_batch_size=size)}
        found.append([row["loss"] for row in rows(run(f"batched{size}", **options), "evaluation")])
    assert found[1] == pytest.approx(found[0], abs=1e-6) and found[2] == pytest.approx(found[0], abs=1e-6)


def test_a_finished_run_that_is_started_again_does_nothing(run: Callable, tiny_builds: dict[str, str]) -> None:
    options = {"phases": {"main": 3}, "evaluation": held_out(tiny_builds, every_steps=2)}
    run_dir = run(**options)
    before = (run_dir / metrics.NAME).read_text(), [path.stat().st_ino for path in finished(run_dir)]
    run(**options)
    assert ((run_dir / metrics.NAME).read_text(), [path.stat().st_ino for path in finished(run_dir)]) == before


def test_a_run_that_begins_again_before_its_first_checkpoint_evaluates_once(
    run: Callable, tiny_builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_seed.train import loop

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    options = {"phases": {"main": 2}, "evaluation": held_out(tiny_builds)}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "guarded_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
    run_dir = run(**options)
    assert [row["step"] for row in rows(run_dir, "evaluation")] == [0, 2]


@pytest.mark.parametrize("every_steps", [1000, 3], ids=["saved at the end", "saved by the step"])
def test_a_finished_run_with_one_more_phase_goes_on_where_its_data_stopped(run: Callable, every_steps: int) -> None:
    whole = run("whole", phases={"first": 3, "second": 3})
    run("extended", phases={"first": 3}, checkpoint={"every_steps": every_steps})
    extended = run("extended", phases={"first": 3, "second": 3})
    assert losses(extended) == losses(whole)
    assert cursors(extended) == cursors(whole)


def test_a_finished_run_with_a_larger_budget_goes_on_where_its_data_stopped(run: Callable) -> None:
    whole = run("whole", phases={"main": 6})
    run("extended", phases={"main": 3})
    assert losses(run("extended", phases={"main": 6})) == losses(whole)


def cursors(run_dir: Path) -> dict[str, Any]:
    return read_state(finished(run_dir)[-1])["cursors"]


def test_a_damaged_last_checkpoint_is_written_anew(run: Callable) -> None:
    """Three steps, saved after two and at the end; the run falls back to two and comes to its end again."""
    options = {"phases": {"main": 3}, "checkpoint": {"every_steps": 2}}
    run_dir = run(**options)
    break_bit(step_dir(run_dir, 3))
    run(**options)
    assert find_damage(step_dir(run_dir, 3)) is None


def test_a_damaged_checkpoint_never_counts_among_those_that_are_kept(run: Callable) -> None:
    """Two are kept. Steps 2 and 3 are damaged; killed after step 2 came again, the run must still have that."""
    options = {"phases": {"main": 3}, "checkpoint": {"every_steps": 1, "keep_last": 3}}
    run_dir = run(**options)
    for step in (2, 3):
        break_bit(step_dir(run_dir, step))
    run("run", phases={"main": 2}, checkpoint={"every_steps": 1, "keep_last": 1})
    assert [(path.name, find_damage(path)) for path in finished(run_dir)] == [("step-00000002", None)]


def break_bit(checkpoint: Path) -> None:
    victim = next(checkpoint.glob("*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def test_settings_of_the_optimizer_come_from_the_recipe_not_from_the_checkpoint(run: Callable) -> None:
    """Without decay a resumed run differs from one that goes on with it."""
    strong = {"optimizer": {"weight_decay": 50.0}}
    run("decayed", phases={"main": 2}, **strong)
    decayed = run("decayed", phases={"main": 4}, **strong)
    run("changed", phases={"main": 2}, **strong)
    changed = run("changed", phases={"main": 4}, optimizer={"weight_decay": 0.0})
    norms = [embedding(run_dir).norm().item() for run_dir in (decayed, changed)]
    assert norms[1] > 1.1 * norms[0]


def embedding(run_dir: Path) -> torch.Tensor:
    return CheckpointReader(finished(run_dir)[-1]).read("embedding.word_embeddings.weight")


def test_a_run_that_diverged_stops_before_it_saves(run: Callable, tmp_path: Path) -> None:
    diverging = {"phases": {"main": 4}, "model": {**MODEL, "init_std": 1e19}, "checkpoint": {"every_steps": 1}}
    with pytest.raises(SeedError, match=r"step 3: 3 updates left out in a row, and no checkpoint to go back to"):
        run("diverged", **diverging)
    skipped = [row for row in rows(tmp_path / "diverged", "event") if row["event"] == "update_skipped"]
    assert [row["step"] for row in skipped] == [1, 2, 3]
    assert finished(tmp_path / "diverged") == []


def test_token_ids_that_the_model_does_not_have_are_refused(run: Callable) -> None:
    """Such labels would have no row in the head, and a loss that is wrong or infinite."""
    with pytest.raises(SeedError, match=r"built with a tokenizer of 120 ids, but model.vocab_size is 100"):
        run(phases={"main": 2}, model={**MODEL, "vocab_size": 100})


def test_a_run_folder_of_another_model_is_refused_with_what_differs(run: Callable) -> None:
    run(phases={"main": 1})
    with pytest.raises(SeedError, match=r"is of another model \(num_layers 2 instead of 3\)"):
        run(phases={"main": 2}, model={**MODEL, "num_layers": 3})
