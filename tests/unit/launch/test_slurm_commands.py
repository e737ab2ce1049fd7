"""`megatron-seed launch` as far as it goes without a Slurm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.slurm.history import History, launch_dir, log_dir
from launch.slurm.snapshot import snapshot_code, submission_dir
from launch.slurm.watch import print_log
from megatron_seed.checkpoint.manifest import find_damage
from megatron_seed.errors import SeedError


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("gpus_per_node: 0\nprocesses_per_node: 2\n")
    return "c.yaml"


def test_a_script_is_printed_and_nothing_is_made(cluster: str, tmp_path: Path) -> None:
    words = ["launch", "run", "quickstart", "seed=5", "--cluster", cluster, "--nodes", "1", "--time", "2-00"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "#SBATCH --time=2-00\n" in done.output and done.output.endswith("-m megatron_seed.train quickstart seed=5\n")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_recipe_that_cannot_be_laid_out_is_refused_before_anything_is_made(cluster: str, tmp_path: Path) -> None:
    words = ["launch", "run", "quickstart", "layout.tensor_parallel=3", "--cluster", cluster, "--nodes", "1"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SeedError)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_the_script_of_a_command(cluster: str) -> None:
    words = [
        "launch",
        "command",
        "--cluster",
        cluster,
        "--name",
        "convert",
        "--",
        "megatron-seed",
        "hf",
        "export",
        "a b",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"exec {sys.executable} -m launch hf export 'a b'\n")


def test_without_slurm_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    History(tmp_path / "run").add("submitted", jobs=["1"])
    done = CliRunner().invoke(app, ["launch", "status", str(tmp_path / "run")])
    assert isinstance(done.exception, SeedError) and "squeue is not installed here" in str(done.exception)


def test_a_run_that_was_never_submitted(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["launch", "status", str(tmp_path)])
    assert isinstance(done.exception, SeedError) and "no job of this run was submitted" in str(done.exception)


def test_logs_of_the_newest_attempt_unless_another_is_asked_for(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture
) -> None:
    for attempt in (2, 10):
        log_dir(tmp_path, attempt).mkdir(parents=True)
        (log_dir(tmp_path, attempt) / "rank-1.log").write_text(f"first of {attempt}\nlast of {attempt}\n")
        (log_dir(tmp_path, attempt) / "rank-1.exit").write_text("0 n1\n")
    print_log(tmp_path, 1, None, 1, follow=True)
    print_log(tmp_path, 1, 2, None, follow=False)
    assert capfdbinary.readouterr().out == b"last of 10\nfirst of 2\nlast of 2\n"
    with pytest.raises(SeedError, match="no log of rank 0 of attempt 2"):
        print_log(tmp_path, 0, 2, None, follow=False)


def test_a_snapshot_is_whole_and_kept_once_and_mended(tmp_path: Path) -> None:
    first = snapshot_code(tmp_path)
    assert find_damage(first) is None and not list(first.rglob("__pycache__"))
    made = first.stat().st_ino
    assert snapshot_code(tmp_path) == first and first.stat().st_ino == made
    (first / "launch" / "cli.py").write_text("")
    assert snapshot_code(tmp_path) == first and find_damage(first) is None
    assert [path.name for path in launch_dir(tmp_path).iterdir()] == [first.name]
    assert [submission_dir(tmp_path).name, submission_dir(tmp_path).name] == ["submission-0001", "submission-0002"]


def test_the_supervisor_runs_on_a_python_without_packages_from_a_snapshot(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "launch.slurm.supervise", "--help"],
        env={"PYTHONPATH": str(snapshot_code(tmp_path))},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "--at-time-limit" in done.stdout, done.stderr
