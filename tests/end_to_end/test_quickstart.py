"""The quickstart as a user meets it: from a folder of code to a model that transformers loads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from quickstart_runs import (
    EVERY_STEPS,
    STEPS,
    digests,
    environment,
    leftovers,
    quickstart_command,
    run_command,
    times,
    write_corpus,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

MADE = ("corpus", "tokenizer", "builds", "train", "hf")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("code") / "my 'own' code: [all] = 100 %")


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a quickstart that ended well, in a path that is hard to quote."""
    run_dir = tmp_path_factory.mktemp("runs") / "it's a run: #1 = {good}"
    result = run_command(quickstart_command(corpus, run_dir))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    assert f"report  {run_dir}/report.html" in result.stdout
    return run_dir


@pytest.fixture
def moved(finished: Path, tmp_path: Path) -> Path:
    """The finished run folder, somewhere else."""
    return shutil.copytree(finished, tmp_path / "run", copy_function=shutil.copy2)


def metrics(run_dir: Path, kind: str) -> list[dict]:
    rows = map(json.loads, (run_dir / "train" / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line of an error that the user can put right."""
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "━" not in line]
    assert line.startswith("megatron-seed: ")
    return line


def test_transformers_loads_the_model_and_it_writes(finished: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(finished / "hf")
    model = AutoModelForCausalLM.from_pretrained(finished / "hf", dtype=torch.float32)
    prompt = tokenizer("import os\n", return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert output.shape[1] > prompt["input_ids"].shape[1]
    assert tokenizer.decode(output[0]).startswith("import os\n")


def test_the_model_learns(finished: Path) -> None:
    rows = metrics(finished, "train")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for source in ("held_out", "infilling"):
        evaluations = [row for row in metrics(finished, "evaluation") if row["source"] == source]
        assert [row["step"] for row in evaluations] == list(range(0, STEPS + 1, EVERY_STEPS))
        losses = [row["loss"] for row in evaluations]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] - losses[-1] > 1.0


def test_the_report_needs_nothing_else(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    elsewhere = r"""<(?:script|link|iframe|object)|@import|(?:src|href)="(?!#|data:)|url\((?!["']?(?:#|data:))"""
    assert not re.findall(elsewhere, page)
    losses = [row["loss"] for row in metrics(finished, "evaluation") if row["source"] == "held_out"]
    assert all(f"{loss:.2f}" in page for loss in (losses[0], losses[-1]))
    assert "[all] = 100 %" in page


def test_what_is_there_is_what_the_readme_names(finished: Path) -> None:
    train = {path.name for path in (finished / "train").iterdir()}
    assert train >= {"config.yaml", "checkpoints", "metrics.jsonl", "events"}
    assert {path.name for path in finished.iterdir()} >= {*MADE, "report.html", "recipe.yaml"}
    assert not leftovers(finished)


def test_run_again_it_repeats_nothing(corpus: Path, moved: Path) -> None:
    before = {name: times(moved / name) for name in MADE}
    result = run_command(quickstart_command(corpus, moved))
    assert result.returncode == 0, result.stderr
    assert {name: times(moved / name) for name in MADE} == before
    done = re.findall(r"^(\w+): done before$", result.stdout, re.MULTILINE)
    assert done == ["tokenizer", "build", "train", "export", "generate"]


def test_an_absolute_path_is_the_same_run(corpus: Path, moved: Path) -> None:
    """Killed as soon as it says which stage it begins or passes over; nothing may be moved aside."""
    relative = Path(os.path.relpath(moved))
    output = output_until(quickstart_command(corpus, relative), "train: done before")
    assert "moved to" not in output


def test_other_settings_move_the_old_run_aside(corpus: Path, moved: Path) -> None:
    before = digests(moved)
    result = run_command(quickstart_command(corpus, moved, "--cap-bytes", "100"))
    assert "total_size" in one_line(result)  # nothing is as small as that
    assert digests(moved.with_name("run.1")) == before
    assert not (moved / "hf").exists()


def test_other_code_is_trained_on_from_the_start(corpus: Path, moved: Path, tmp_path: Path) -> None:
    """Same path, same settings, one file of a training repository changed."""
    held_out = {row["repository"] for row in repositories(moved) if row["split"] == "held_out"}
    changed = next(path for path in sorted(corpus.iterdir()) if path.name not in held_out) / "__init__.py"
    content = changed.read_bytes()
    try:
        changed.write_bytes(content + b"\nCHANGED = True\n")
        output = output_until(quickstart_command(corpus, moved), "was made from other inputs: moved to")
    finally:
        changed.write_bytes(content)
    assert "done before" not in output
    assert (moved / "train.1" / "metrics.jsonl").is_file()


def repositories(run_dir: Path) -> list[dict]:
    return json.loads((run_dir / "stages.json").read_text())["corpus"]["result"]["repositories"]


def output_until(command: list[str], text: str, timeout_s: float = 120.0) -> str:
    """Start a command, kill it with all its children once it has printed `text`; returns what it printed."""
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        deadline, lines = time.monotonic() + timeout_s, []
        try:
            for line in process.stdout:
                lines.append(line)
                if text in line or time.monotonic() > deadline:
                    break
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    output = "".join(lines)
    assert text in output, output
    return output


def test_a_corpus_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    result = run_command(quickstart_command(tmp_path / "nowhere", tmp_path / "run"))
    assert f"{tmp_path}/nowhere: no such folder" in one_line(result)
    assert not (tmp_path / "run").exists()


def test_an_empty_corpus_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    result = run_command(quickstart_command(tmp_path / "code", tmp_path / "run"))
    assert f"{tmp_path}/code is empty" in one_line(result)
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_code_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "code" / "repository").mkdir(parents=True)
    (tmp_path / "code" / "repository" / "image.py").write_bytes(b"\x00\x01")
    result = run_command(quickstart_command(tmp_path / "code", tmp_path / "run"))
    assert "nothing is left to train on: 1 x binary" in one_line(result)


def test_a_misspelt_setting_leaves_the_run_folder_alone(corpus: Path, moved: Path) -> None:
    before = times(moved)
    result = run_command(quickstart_command(corpus, moved, settings=["model.num_layer=3"]))
    assert "did you mean num_layers?" in one_line(result)
    assert times(moved) == before


def test_a_folder_of_something_else_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    result = run_command(quickstart_command(corpus, tmp_path))
    assert f"{tmp_path} holds thesis.tex" in one_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_folder_in_the_corpus_is_refused(corpus: Path) -> None:
    result = run_command(quickstart_command(corpus, corpus / "run"))
    assert "lie in one another" in one_line(result)
    assert not (corpus / "run").exists()


def test_two_at_once_are_refused(corpus: Path, moved: Path) -> None:
    before = times(moved)
    with open(moved / ".lock", "a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for more in ([], ["--cap-bytes", "100"]):
            assert f"{moved} is in use by process" in one_line(run_command(quickstart_command(corpus, moved, *more)))
    assert times(moved) == before
