"""Which folders are checkpoints, which one a path means, and which ones may go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.checkpoint.layout import checkpoints_dir, finished, prune, resolve, set_aside, step_dir
from megatron_seed.checkpoint.manifest import NAME, write_manifest


def checkpoint(run_dir: Path, step: int, whole: bool = True) -> Path:
    folder = step_dir(run_dir, step)
    folder.mkdir(parents=True)
    (folder / ".metadata").touch()
    if whole:
        write_manifest(folder)
    return folder


def names(run_dir: Path) -> set[str]:
    return {path.name for path in checkpoints_dir(run_dir).iterdir()}


def test_finished_ones_are_listed_by_step(tmp_path: Path) -> None:
    assert finished(tmp_path) == []
    steps = [200, 1000, 30, 99_999_999, 100_000_000]
    folders = {step: checkpoint(tmp_path, step) for step in steps}
    assert finished(tmp_path) == [folders[step] for step in sorted(steps)]


def test_what_is_not_finished_is_not_listed(tmp_path: Path) -> None:
    good = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, whole=False)
    for name in ("step-00000030.bak", "step-3", "mystep-00000040", ".step-00000050.tmp"):
        (checkpoints_dir(tmp_path) / name).mkdir()
        (checkpoints_dir(tmp_path) / name / NAME).touch()
    (checkpoints_dir(tmp_path) / "step-00000060").touch()
    assert finished(tmp_path) == [good]


@given(steps=st.sets(st.integers(1, 10**9), max_size=8), keep_last=st.integers(1, 5))
def test_pruning_keeps_the_last_ones(steps: set[int], keep_last: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    checkpoints_dir(run_dir).mkdir()
    for step in steps:
        checkpoint(run_dir, step)
    prune(run_dir, keep_last)
    assert finished(run_dir) == [step_dir(run_dir, step) for step in sorted(steps)[-keep_last:]]
    assert len(names(run_dir)) == min(len(steps), keep_last)


def test_pruning_takes_only_what_is_ours(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 5, whole=False)
    theirs = ["best", "step-00000010.bak", ".snapshot", "notes.txt", "latest"]
    for name in theirs:
        (checkpoints_dir(tmp_path) / name).mkdir()
    for name in (".step-00000040.tmp", ".step-00000005.old"):
        (checkpoints_dir(tmp_path) / name / "deep").mkdir(parents=True)
    prune(tmp_path, 2)
    assert names(tmp_path) == {"step-00000005", "step-00000020", "step-00000030", *theirs}


def test_a_link_to_a_checkpoint_is_not_followed_into_it(tmp_path: Path) -> None:
    elsewhere = checkpoint(tmp_path / "other", 10)
    checkpoints_dir(tmp_path / "run").mkdir(parents=True)
    (checkpoints_dir(tmp_path / "run") / "kept").symlink_to(elsewhere)
    checkpoint(tmp_path / "run", 20)
    prune(tmp_path / "run", 1)
    assert (elsewhere / NAME).is_file()
    assert names(tmp_path / "run") == {"kept", "step-00000020"}


def test_a_path_means_itself_or_the_newest_of_its_run(tmp_path: Path) -> None:
    old, new = checkpoint(tmp_path / "run", 10), checkpoint(tmp_path / "run", 20)
    assert resolve(old) == old
    assert resolve(tmp_path / "run") == new
    assert resolve(checkpoints_dir(tmp_path / "run")) == new
    assert resolve(tmp_path / "nowhere") == tmp_path / "nowhere"


def test_a_path_beside_the_checkpoints_does_not_mean_the_newest(tmp_path: Path) -> None:
    """Naming a checkpoint that is not there must not quietly give another."""
    checkpoint(tmp_path / "run", 10)
    missing = step_dir(tmp_path / "run", 15)
    assert resolve(missing) == missing
    missing.mkdir()
    assert resolve(missing) == missing
    assert resolve(tmp_path / "run" / "events") == tmp_path / "run" / "events"


def test_every_so_manieth_step_outlives_the_last_ones(tmp_path: Path) -> None:
    for step in range(10, 100, 10):
        checkpoint(tmp_path, step)
    prune(tmp_path, 2, keep_every_steps=30)
    assert finished(tmp_path) == [step_dir(tmp_path, step) for step in (30, 60, 80, 90)]


def test_the_last_good_one_outlives_damage_to_later_ones(tmp_path: Path) -> None:
    kept = [checkpoint(tmp_path, step) for step in (10, 20, 30)]
    for path in kept[1:]:
        (path / ".metadata").unlink()
    prune(tmp_path, 2)
    assert finished(tmp_path) == kept
    newest = checkpoint(tmp_path, 40)
    prune(tmp_path, 2)
    assert finished(tmp_path) == [kept[-1], newest]


def test_of_damaged_ones_the_newest_is_kept(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (10, 20, 30, 40)]
    for path in (paths[2], paths[1]):
        set_aside(path)
        assert names(tmp_path) >= {"damaged-step-00000030"}
    assert names(tmp_path) == {"step-00000010", "step-00000040", "damaged-step-00000030"}
    set_aside(paths[3])
    assert names(tmp_path) == {"step-00000010", "damaged-step-00000040"}
