"""Saving: the state of one moment, complete or not at all, while training goes on."""

from __future__ import annotations

import errno
import itertools
import math
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import SmallRun, equal

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.manifest import find_all_damage
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.checkpoint.state import Progress, read_progress

FIVE, SIX = Progress(step=5, consumed_tokens=50), Progress(step=6, consumed_tokens=60)


def contents(run: SmallRun, step: int) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(layout.step_dir(run.recipe.run_dir, step))
    return {key: reader.read(key) for key in [*reader.tensors, *reader.optimizer_tensors]}


def load(run: SmallRun, checkpoint: Path) -> Progress:
    from megatron_seed.checkpoint.load import load_checkpoint

    return load_checkpoint(checkpoint, run.models, run.optimizer)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writing begins only when this is set."""
    from megatron_seed.checkpoint import save

    event, write = threading.Event(), save.write_share

    def waiting(*arguments: object) -> object:
        assert event.wait(30)
        return write(*arguments)

    monkeypatch.setattr(save, "write_share", waiting)
    yield event
    event.set()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("distributed_optimizer", [True, False])
def test_what_is_saved_comes_back(
    small_run: Callable[..., SmallRun], precision: str, distributed_optimizer: bool
) -> None:
    run = small_run(layout={"distributed_optimizer": distributed_optimizer}, precision=precision)
    run.change(7)
    expected, saver = run.values(), run.saver()
    saver.save(FIVE)
    saver.finish()
    run.change(8)
    assert not equal(run.values(), expected)
    # Also into a model that uses the other optimizer.
    for other in (run, small_run("other", {"distributed_optimizer": not distributed_optimizer}, precision)):
        assert load(other, layout.step_dir(run.recipe.run_dir, 5)) == FIVE
        assert equal(other.values(), expected)


def test_training_goes_on_while_the_state_of_the_moment_is_written(
    small_run: Callable[..., SmallRun], gate: threading.Event
) -> None:
    run, twin = small_run(), small_run("synchronous", asynchronous=False)
    run.change(5)
    saver = run.saver()
    saver.save(FIVE)
    for step in range(3):  # steps that change everything before a byte is written
        run.change(100 + step)
        saver.poll()
    assert not layout.finished(run.recipe.run_dir) and not run.outcomes
    gate.set()
    saver.finish()
    twin.change(5)
    twin.saver().save(FIVE)
    assert [outcome.error for outcome in (*run.outcomes, *twin.outcomes)] == [None, None]
    ours, theirs = contents(run, 5), contents(twin, 5)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert find_all_damage(layout.step_dir(run.recipe.run_dir, 5)) == []


def test_polling_alone_brings_a_save_to_its_end(small_run: Callable[..., SmallRun]) -> None:
    run = small_run()
    saver = run.saver()
    saver.save(FIVE)
    while not run.outcomes:
        saver.poll()
    assert saver.saved == FIVE
    assert read_progress(layout.step_dir(run.recipe.run_dir, 5)) == FIVE


def test_saved_is_said_once_latest_has_moved(small_run: Callable[..., SmallRun]) -> None:
    run, seen = small_run(), []
    latest = layout.checkpoints_dir(run.recipe.run_dir) / layout.LATEST

    def report(outcome: object) -> None:
        seen.append((latest.read_text(), find_all_damage(outcome.path)))

    saver = run.saver(report)
    saver.save(FIVE)
    saver.finish()
    assert seen == [("step-00000005\n", [])]


def test_a_save_waits_for_the_one_before(small_run: Callable[..., SmallRun], gate: threading.Event) -> None:
    run = small_run()
    run.change(5)
    saver, five = run.saver(), run.values()
    saver.save(FIVE)
    threading.Timer(0.2, gate.set).start()
    run.change(6)
    saver.save(SIX)  # into the room that held step 5
    saver.finish()
    assert [outcome.progress for outcome in run.outcomes] == [FIVE, SIX]
    load(run, layout.step_dir(run.recipe.run_dir, 5))
    assert equal(run.values(), five)


def test_generators_go_on_where_they_stood(small_run: Callable[..., SmallRun]) -> None:
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    def draw() -> list[float]:
        with get_cuda_rng_tracker().fork():
            return [*torch.rand(3).tolist()]

    run = small_run()
    torch.manual_seed(3)
    saver = run.saver()
    saver.save(FIVE)
    saver.finish()
    expected = draw(), torch.rand(3).tolist()
    load(run, layout.step_dir(run.recipe.run_dir, 5))
    assert (draw(), torch.rand(3).tolist()) == expected


@pytest.fixture(params=["a full disk", "a limit on files"])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A folder for runs, and a switch that takes away the room for another checkpoint there, or gives it back."""
    folder = tmp_path / "narrow"
    folder.mkdir()
    if request.param == "a limit on files":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield folder, lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if full else soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")

    def switch(full: bool) -> None:
        filler = folder / "filler"
        if not full:
            filler.unlink()
            return
        room = os.statvfs(folder)
        with filler.open("wb") as file:
            file.write(bytes(room.f_bavail * room.f_frsize - 20_000))

    yield folder, switch
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_no_room_for_a_save(small_run: Callable[..., SmallRun], narrow: tuple, asynchronous: bool) -> None:
    _, switch = narrow
    run = small_run("narrow/run", asynchronous=asynchronous)
    run_dir = run.recipe.run_dir
    run.change(5)
    saver, five = run.saver(), run.values()
    saver.save(FIVE)
    saver.finish()
    switch(True)
    run.change(6)
    saver.save(SIX)
    saver.finish()
    switch(False)
    assert [(outcome.progress.step, outcome.again) for outcome in run.outcomes] == [(5, False), (6, True), (6, False)]
    for failed in run.outcomes[1:]:
        assert "\n" not in failed.error
        assert ".step-00000006.tmp/__0_0.distcp" in failed.error
        assert os.strerror(errno.ENOSPC) in failed.error or os.strerror(errno.EFBIG) in failed.error
    assert saver.saved == FIVE
    assert sorted(path.name for path in layout.checkpoints_dir(run_dir).iterdir()) == ["latest", "step-00000005"]
    assert find_all_damage(layout.step_dir(run_dir, 5)) == []
    load(run, layout.step_dir(run_dir, 5))
    assert equal(run.values(), five)
    # The next one finds room again.
    saver.save(SIX)
    saver.finish()
    assert saver.saved == SIX
    assert find_all_damage(layout.step_dir(run_dir, 6)) == []


@pytest.mark.parametrize("place", ["write_share", "write_beside", "check_files", "move_into_place"])
def test_an_error_once_is_got_over_from_the_same_copy(
    small_run: Callable[..., SmallRun], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_seed.checkpoint import save

    calls, real = itertools.count(), getattr(save, place)

    def fails_first(*arguments: object) -> object:
        if next(calls) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "somewhere")
        return real(*arguments)

    monkeypatch.setattr(save, place, fails_first)
    run = small_run()
    run.change(5)
    saver, five = run.saver(), run.values()
    saver.save(FIVE)
    run.change(6)
    saver.finish()
    assert [(outcome.error is None, outcome.again) for outcome in run.outcomes] == [(False, True), (True, False)]
    assert "Input/output error: 'somewhere'" in run.outcomes[0].error
    load(run, layout.step_dir(run.recipe.run_dir, 5))
    assert equal(run.values(), five)


def test_a_folder_that_cannot_be_made(small_run: Callable[..., SmallRun]) -> None:
    run = small_run()
    run.recipe.run_dir.mkdir()
    layout.checkpoints_dir(run.recipe.run_dir).write_text("a file is in the way")
    saver = run.saver()
    saver.save(FIVE)
    saver.finish()
    assert [outcome.again for outcome in run.outcomes] == [True, False]
    assert "rank 0: " in run.outcomes[0].error and "checkpoints" in run.outcomes[0].error
    assert saver.saved is None


def test_a_save_once_more_when_latest_could_not_be_moved(
    small_run: Callable[..., SmallRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = itertools.count(), manifest.write_text

    def fails_first(path: Path, text: str) -> None:
        if path.name == layout.LATEST and next(calls) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        real(path, text)

    monkeypatch.setattr(manifest, "write_text", fails_first)
    run = small_run()
    saver = run.saver()
    saver.save(FIVE)
    saver.finish()
    assert [outcome.error is None for outcome in run.outcomes] == [False, True]
    folder = layout.checkpoints_dir(run.recipe.run_dir)
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000005"]
    assert find_all_damage(folder / "step-00000005") == []


def test_old_ones_that_cannot_be_removed_are_a_remark(
    small_run: Callable[..., SmallRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "old")

    monkeypatch.setattr(layout, "prune", fails)
    run = small_run()
    saver = run.saver()
    saver.save(FIVE)
    saver.finish()
    assert saver.saved == FIVE
    assert "older checkpoints could not be removed" in run.outcomes[0].remark


def test_every_so_manieth_is_kept(small_run: Callable[..., SmallRun]) -> None:
    run = small_run(keep_last=1, keep_every_steps=4)
    saver = run.saver()
    for step in range(1, 8):
        saver.save(Progress(step=step))
    saver.finish()
    assert [layout.step_of(path) for path in layout.finished(run.recipe.run_dir)] == [4, 7]


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), data=st.data())
def test_a_range_of_a_flattened_tensor_as_boxes(shape: list[int], data: st.DataObject) -> None:
    from megatron_seed.checkpoint.pieces import boxes

    size = math.prod(shape)
    first = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(first, size))
    numbers, covered = torch.arange(size).view(shape), []
    for offsets, sizes, begin in boxes(tuple(shape), first, stop):
        box = tuple(slice(offset, offset + extent) for offset, extent in zip(offsets, sizes, strict=True))
        values = numbers[box].flatten().tolist()
        assert values == list(range(begin, begin + len(values)))
        covered += values
    assert covered == list(range(first, stop))
    assert len(list(boxes(tuple(shape), first, stop))) <= 2 * len(shape)
