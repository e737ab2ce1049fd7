"""Every file of a checkpoint, with one bit flipped, truncated, and removed: always found, and always got over."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_run import SmallRun, equal
from typer.testing import CliRunner

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.state import Progress
from megatron_seed.cli import app

TOKENIZER = {"tokenizer.json": b"{}", "more/words.txt": b"a\nb\n"}


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {"one flipped bit": flip_a_bit, "truncated": truncate, "removed": Path.unlink}


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, Path]]:
    yield {}


@pytest.fixture
def run(small_run: Callable[..., SmallRun], tmp_path: Path, kept: dict) -> SmallRun:
    """A run with checkpoints of steps 5 and 6 that have every kind of file, a new copy for each test."""
    run = small_run(keep_last=2)
    if "run" not in kept:
        for name, content in TOKENIZER.items():
            path = tmp_path / "tokenizer" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        made = small_run("made", keep_last=2)
        made.recipe = made.recipe.model_copy(update={"tokenizer": tmp_path / "tokenizer"})
        saver = made.saver()
        for step in (5, 6):
            made.change(step)
            saver.save(Progress(step=step))
        saver.finish()
        kept["run"] = made.recipe.run_dir
    shutil.copytree(kept["run"], run.recipe.run_dir)
    return run


def files(run: SmallRun) -> list[str]:
    return [*manifest.list_files(layout.step_dir(run.recipe.run_dir, 6)), manifest.NAME]


def verify(path: Path) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["ckpt", "verify", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout.splitlines()


def blamed(name: str, damage: str) -> str:
    """A manifest with another digit in a digest blames the file of that digest."""
    return "digest" if name == manifest.NAME and damage == "one flipped bit" else name


def test_every_kind_of_file_is_in_the_test(run: SmallRun) -> None:
    assert files(run) == [
        ".metadata",
        "__0_0.distcp",
        "common.pt",
        "metadata.json",
        "model.yaml",
        "recipe.yaml",
        "state.json",
        "tokenizer/more/words.txt",
        "tokenizer/tokenizer.json",
        "manifest.json",
    ]
    code, lines = verify(run.recipe.run_dir)
    assert code == 0
    assert [line.split(",")[0] for line in lines] == ["step-00000005: good", "step-00000006: good"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_it(run: SmallRun, damage: str) -> None:
    whole, folder = run.recipe.run_dir, run.recipe.run_dir.with_name("damaged")
    for name in files(run):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        victim = layout.step_dir(folder, 6)
        DAMAGES[damage](victim / name)
        code, lines = verify(folder)
        assert code == 1
        assert lines[0].startswith("step-00000005: good")
        assert lines[1].startswith("step-00000006: damaged: ") and blamed(name, damage) in lines[1]
        assert verify(victim) == (1, lines[1:])


def test_verify_finds_a_file_too_many(run: SmallRun) -> None:
    victim = layout.step_dir(run.recipe.run_dir, 6)
    (victim / "__9_0.distcp").write_bytes(b"more")
    code, (_, line) = verify(run.recipe.run_dir)
    assert code == 1
    assert line == f"step-00000006: damaged: {victim / '__9_0.distcp'} is not in the manifest"


def test_verify_tells_how_much_is_wrong(run: SmallRun) -> None:
    victim = layout.step_dir(run.recipe.run_dir, 6)
    (victim / "common.pt").unlink()
    (victim / "state.json").unlink()
    assert verify(victim) == (1, [f"step-00000006: damaged: {victim / 'common.pt'} is missing (and 1 more)"])


def test_a_folder_without_checkpoints_is_not_called_good(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        result = CliRunner().invoke(app, ["ckpt", "verify", str(path)])
        assert "no checkpoint there" in str(result.exception)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_one_before(
    run: SmallRun, damage: str, caplog: pytest.LogCaptureFixture, kept: dict
) -> None:
    from megatron_seed.train.resume import find_start, load_start

    original, run_dir = kept["run"], run.recipe.run_dir
    run.change(5)
    expected = run.values()
    for name in files(run):
        shutil.rmtree(run_dir)
        shutil.copytree(original, run_dir)
        DAMAGES[damage](layout.step_dir(run_dir, 6) / name)
        run.change(99)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            where = find_start(run.recipe, run.groups)
        progress = load_start(where, run.recipe, run.models, run.optimizer, run.groups)
        assert progress == Progress(step=5)
        assert equal(run.values(), expected)
        assert "step-00000006 is damaged" in caplog.text and blamed(name, damage) in caplog.text
        assert (layout.checkpoints_dir(run_dir) / "damaged-step-00000006").is_dir()
