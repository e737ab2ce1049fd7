"""What TensorBoard and wandb show of a run that went back and did some steps again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.train import metrics
from megatron_seed.train.record import Recorder

BLOCK_BYTES, HEADER_BYTES, PIECE_BYTES = 1 << 15, 7, 7


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path]) -> Callable[..., Recipe]:
    def make(**logging: object) -> Recipe:
        found = load_recipe(tiny_recipe("run", logging={"tensorboard": False, "wandb": "off", **logging}))
        found.run_dir.mkdir(exist_ok=True)
        return found

    return make


def next_recorder(recipe: Recipe, before: Recorder, step: int) -> Recorder:
    """That of the next job. Names of TensorBoard's files, in whose order they are read, tell seconds apart."""
    before.close()
    time.sleep(1.0)
    return Recorder(recipe, step, active=True)


def write(recorder: Recorder, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        recorder.write({"kind": "train", "step": step, "loss": loss})


def charted(run_dir: Path, tag: str = "train/loss") -> dict[int, float]:
    found = [(event.step, event.value) for event in EventAccumulator(str(run_dir / "events")).Reload().Scalars(tag)]
    assert len(found) == len(dict(found)), f"a step is there twice: {found}"
    return dict(found)


def history(run_dir: Path) -> list[dict[str, float]]:
    """Numbers of each row that an offline run of wandb keeps."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    found = []
    for content in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        items = record.history.item if record.WhichOneof("record_type") == "history" else ()
        if items:
            found.append({item.key or ".".join(item.nested_key): float(item.value_json) for item in items})
    return found


def log_records(content: bytes) -> Iterator[bytes]:
    """Of LevelDB's log format, in which wandb writes: pieces with checksum, size and kind, none across two blocks."""
    place, record = HEADER_BYTES, b""
    while place + PIECE_BYTES <= len(content):
        if (left := BLOCK_BYTES - place % BLOCK_BYTES) < PIECE_BYTES:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + PIECE_BYTES : place + PIECE_BYTES + size]
        place += PIECE_BYTES + size
        if kind in (1, 4):  # all of a record, or the last of it
            yield record
            record = b""


@pytest.mark.parametrize("resumed", [False, True], ids=["rolled back", "resumed"])
def test_tensorboard_shows_a_step_that_is_done_again_once(resumed: bool, recipe: Callable[..., Recipe]) -> None:
    made = recipe(tensorboard=True)
    recorder = Recorder(made, 0, active=True)
    write(recorder, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    if resumed:
        recorder = next_recorder(made, recorder, 2)
    else:
        recorder.rewind(2)
    write(recorder, {3: 30.0})
    recorder.close()
    assert charted(made.run_dir) == {1: 1.0, 2: 2.0, 3: 30.0}
    assert [row["loss"] for row in metrics.read(made.run_dir)] == [1.0, 2.0, 30.0]


def test_tensorboard_shows_the_first_evaluation_of_a_run_that_begins_anew_once(recipe: Callable[..., Recipe]) -> None:
    made = recipe(tensorboard=True)
    evaluation = {"kind": "evaluation", "source": "unseen", "step": 0}
    recorder = Recorder(made, 0, active=True)
    recorder.write({**evaluation, "loss": 4.0})
    recorder = next_recorder(made, recorder, 0)
    recorder.write({**evaluation, "loss": 5.0})
    recorder.close()
    assert charted(made.run_dir, "evaluation/unseen/loss") == {0: 5.0}


def test_wandb_keeps_what_was_thrown_away_and_after_it_what_replaced_it(recipe: Callable[..., Recipe]) -> None:
    made = recipe(wandb="offline")
    recorder = Recorder(made, 0, active=True)
    write(recorder, {1: 1.0, 2: 2.0, 3: 3.0})
    recorder.write({"kind": "evaluation", "source": "unseen", "step": 3, "loss": 7.0})
    recorder.rewind(2)
    write(recorder, {3: 30.0, 4: 40.0})
    recorder.close()
    rows = history(made.run_dir)
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 30.0), (4, 40.0)]
    assert [row.get("evaluation/unseen/loss") for row in rows] == [None, None, 7.0, None, None]
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5]


def test_a_tensorboard_that_cannot_go_back_does_not_stop_the_run(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from megatron_seed.train import record

    def full(*arguments: object) -> None:
        raise OSError("no room")

    made = recipe(tensorboard=True)
    recorder = Recorder(made, 0, active=True)
    write(recorder, {1: 1.0, 2: 2.0})
    monkeypatch.setattr(record._TensorBoard, "rewind", full)
    recorder.rewind(1)
    write(recorder, {2: 20.0})
    recorder.close()
    assert "TensorBoard failed, going on without it: no room" in caplog.text
    assert [row["loss"] for row in metrics.read(made.run_dir)] == [1.0, 20.0]
