"""Stages are done once, whatever stops them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launch.stages import Stages, move_aside
from megatron_seed.checkpoint import manifest


class Work:
    """A stage's function that counts how often it runs."""

    def __init__(self, result: Any = "result") -> None:
        self.result = result
        self.runs = 0

    def __call__(self) -> Any:
        self.runs += 1
        return self.result


@pytest.fixture
def stages(tmp_path: Path) -> Callable[[], Stages]:
    """The record of `tmp_path`, read anew as by a process that starts."""
    return lambda: Stages(tmp_path, Console(file=io.StringIO(), width=200))


def printed(stages: Stages) -> str:
    return stages.console.file.getvalue()


def test_a_stage_that_is_done_is_not_done_again(stages: Callable[[], Stages]) -> None:
    work = Work({"tokens": 3})
    first, second = stages(), stages()
    assert first.run("build", ["a", 1], work) == {"tokens": 3}
    again = stages()
    assert again.run("build", ["a", 1], work) == {"tokens": 3}
    assert work.runs == 1
    assert "build: done before" in printed(again)
    assert "done before" not in printed(first)
    assert second.run("other", ["a", 1], work) == {"tokens": 3}
    assert work.runs == 2


def test_other_inputs_are_another_stage(stages: Callable[[], Stages]) -> None:
    work = Work()
    keys = set()
    for inputs in (["a", 1], ["a", 2], {"a": 1}, [Path("a"), 1.5], ["a", 1]):
        record = stages()
        record.run("build", inputs, work)
        keys.add(record.key("build"))
    assert work.runs == 5
    assert len(keys) == 4


def test_the_order_of_keys_is_no_input(stages: Callable[[], Stages]) -> None:
    work = Work()
    stages().run("build", {"a": 1, "b": 2}, work)
    stages().run("build", {"b": 2, "a": 1}, work)
    assert work.runs == 1


def test_a_result_is_the_same_whether_kept_or_computed(stages: Callable[[], Stages]) -> None:
    result = {"rates": (0.5, 1.0), 7: None}
    computed = stages().run("build", [], Work(result))
    assert computed == stages().run("build", [], Work("not run")) == {"rates": [0.5, 1.0], "7": None}


def test_what_was_made_and_is_gone_is_made_again(stages: Callable[[], Stages], tmp_path: Path) -> None:
    made = tmp_path / "hf"

    def work() -> str:
        made.mkdir()
        return "exported"

    stages().run("export", [], work, made=made)
    assert "done before" in printed_by(stages(), lambda record: record.run("export", [], work, made=made))
    made.rmdir()
    stages().run("export", [], work, made=made)
    assert made.is_dir()


def test_a_folder_of_which_files_are_gone_is_made_again(stages: Callable[[], Stages], tmp_path: Path) -> None:
    made = tmp_path / "hf"

    def work() -> str:
        made.mkdir(exist_ok=True)
        (made / "model.safetensors").write_bytes(b"weights")
        manifest.write_manifest(made)
        return "exported"

    def run() -> str:
        return printed_by(stages(), lambda record: record.run("export", [], work, made=made / manifest.NAME))

    assert "done before" not in run() and "done before" in run()
    (made / "model.safetensors").write_bytes(b"half")
    assert "done before" not in run() and "done before" in run()
    (made / manifest.NAME).unlink()
    assert "done before" not in run()
    assert manifest.find_damage(made) is None


def printed_by(record: Stages, use: Callable[[Stages], Any]) -> str:
    use(record)
    return printed(record)


def test_a_stage_that_fails_has_no_result(stages: Callable[[], Stages]) -> None:
    def fail() -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        stages().run("build", [], fail)
    work = Work()
    stages().run("build", [], work)
    assert work.runs == 1


def test_seconds_are_those_of_finished_stages(stages: Callable[[], Stages], tmp_path: Path) -> None:
    record = stages()
    record.run("build", [], Work())
    with pytest.raises(KeyboardInterrupt):
        record.run("train", [], interrupt, goes_on_in=tmp_path / "train")
    assert stages().seconds().keys() == {"build"}


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_stage_goes_on_in_its_folder_only_from_equal_inputs(stages: Callable[[], Stages], tmp_path: Path) -> None:
    folder = tmp_path / "train"

    def stopped(text: str) -> Callable[[], None]:
        def work() -> None:
            folder.mkdir(exist_ok=True)
            (folder / text).touch()
            raise KeyboardInterrupt

        return work

    for inputs, text in ((["a"], "first"), (["a"], "second"), (["b"], "third")):
        with pytest.raises(KeyboardInterrupt):
            stages().run("train", inputs, stopped(text), goes_on_in=folder)
    assert {path.name for path in (tmp_path / "train.1").iterdir()} == {"first", "second"}
    assert {path.name for path in folder.iterdir()} == {"third"}
    work = Work()
    output = printed_by(stages(), lambda record: record.run("train", ["b"], work, goes_on_in=folder))
    assert work.runs == 1 and "moved to" not in output


def test_a_folder_without_a_record_is_not_gone_on_in(stages: Callable[[], Stages], tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.1").mkdir()
    output = printed_by(stages(), lambda record: record.run("train", [], Work(), goes_on_in=tmp_path / "train"))
    assert f"moved to {tmp_path / 'train.2'}" in output
    assert (tmp_path / "train.2").is_dir()


def test_a_record_cut_short_anywhere_counts_as_none(stages: Callable[[], Stages], tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer", "build"):
        stages().run(name, [name], Work(name))
    whole = (tmp_path / "stages.json").read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "stages.json").write_bytes(whole[:length])
        record, work = stages(), Work("anew")
        assert "cannot be read: every stage is looked at again" in printed(record)
        assert record.run("build", ["build"], work) == "anew"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_a_record_of_something_else_counts_as_none(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("record")
    (folder / "stages.json").write_text(json.dumps(value))
    work = Work()
    assert Stages(folder, Console(file=io.StringIO())).run("build", [], work) == "result"
    assert work.runs == 1


KILLED = """
import io, os, signal, sys
from pathlib import Path
from rich.console import Console
from launch.stages import Stages

folder, last = Path(sys.argv[1]), sys.argv[2]

def work(name):
    with (folder / "log").open("a") as log:
        log.write(name + "\\n")
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return name

stages = Stages(folder, Console(file=io.StringIO()))
for name in ("corpus", "tokenizer", "build", "train"):
    assert stages.run(name, [name], lambda: work(name)) == name
"""


def test_killed_in_any_stage_only_that_one_is_repeated(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for last in ("corpus", "tokenizer", "train", "none"):
        result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), last], env=environment, check=False)
        assert result.returncode == (0 if last == "none" else -signal.SIGKILL)
    done = (tmp_path / "log").read_text().split()
    assert done == ["corpus", "corpus", "tokenizer", "tokenizer", "build", "train", "train"]
    assert {path.name for path in tmp_path.iterdir()} == {"log", "stages.json"}


def test_a_write_that_was_cut_short_leaves_the_record(stages: Callable[[], Stages], tmp_path: Path) -> None:
    stages().run("build", [], Work())
    (tmp_path / "stages.tmp").write_text('{"build": {"inp')
    work = Work()
    stages().run("build", [], work)
    assert work.runs == 0
    stages().run("train", [], work)
    assert not (tmp_path / "stages.tmp").exists()


def test_paths_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a [red]long[/red] path" / ("x" * 150)
    (folder / "train").mkdir(parents=True)
    record = Stages(folder, Console(file=io.StringIO(), width=60))
    record.run("train", [], Work(), goes_on_in=folder / "train")
    assert f"moved to {folder}/train.1\n" in printed(record)


def test_move_aside_takes_the_first_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.1").touch()
    (tmp_path / "run.2").symlink_to("nowhere")
    (tmp_path / "run").mkdir()
    assert move_aside(tmp_path / "run") == tmp_path / "run.3"
    monkeypatch.chdir(tmp_path / "run.3")
    assert move_aside(Path()) == tmp_path / "run.3.1"
