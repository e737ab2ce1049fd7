"""`megatron-seed plan` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from launch import cli
from megatron_seed.errors import SeedError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["plan", *map(str, arguments)])


def test_the_shipped_recipe_is_planned_without_its_data() -> None:
    result = run("seed_coder_8b/pretrain", "--gpus", 256, "--gpu", "h100")
    assert result.exit_code == 0, result.output
    for title in (
        "Model",
        "Memory of the fullest rank",
        "Operations and days",
        "Layouts of",
        "Checkpoints and failures",
    ):
        assert title in result.output
    assert "8.250 B" in result.output and "TP4 PP2 DP32 SP" in result.output


def test_overrides_and_assumptions_change_the_plan() -> None:
    def plan(*arguments: str) -> dict:
        result = run("seed_coder_8b/pretrain", *arguments, "--gpus", 64, "--layouts", 1, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    plain = plan()
    assert [phase["name"] for phase in plain["phases"]] == ["web", "code"]
    assert plain["phases"][0]["own"]["memory"]["total"] > 10e9
    assert plan("phases.0.tokens=2_000_000_000_000")["days"] == pytest.approx(plain["days"] * 6 / 5)
    assert plan("--mfu", "0.8")["days"] == pytest.approx(plain["days"] / 2)
    often = plan("--mtbf-hours", "100")["checkpoint"]
    assert often["reliability"]["mtbf_s"] == 100 * 3600 / 8
    assert often["interval_daly_s"] < plain["checkpoint"]["interval_daly_s"]
    assert often["goodput"] < plain["checkpoint"]["goodput"]
    slower = plan("--assume", "matrix_efficiency=0.35")
    assert slower["phases"][0]["best"][0]["step_seconds"] > plain["phases"][0]["best"][0]["step_seconds"]


def test_a_layout_that_cannot_be_is_explained_and_others_are_offered() -> None:
    result = run("seed_coder_8b/pretrain", "--gpus", 4)
    assert result.exit_code == 0
    assert "phase web: 4 processes do not divide" in result.output
    assert "TP4 SP" in result.output
    assert "No layout of those searched divides 7 GPUs" in run("seed_coder_8b/pretrain", "--gpus", 7).output
    assert "does not fit in phase main" in run("quickstart", "--gpus", 2, "--assume", "memory_bytes=1e8").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h900"], "known: a100, b200, h100, h20, h200"),
        (["--gpu", "a100", "fp8=current"], "a100 has no FP8 units"),
        (["--mfu", "1.5"], "must be above 0 and at most 1"),
        (["--assume", "restart_s"], "write it as NAME=NUMBER"),
        (["--assume", "restart_s=soon"], "write it as NAME=NUMBER"),
        (["--assume", "weather=1"], "known: attention_efficiency"),
        (["modle.num_layers=2"], "unknown key modle"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    result = run("seed_coder_8b/pretrain", *arguments)
    assert isinstance(result.exception, SeedError)
    assert message in str(result.exception) and "\n" not in str(result.exception)


def test_it_needs_neither_torch_nor_a_gpu() -> None:
    check = (
        "import sys; sys.argv = ['megatron-seed', 'plan', 'quickstart', '--gpus', '2']\n"
        "from launch.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit_: assert not exit_.code\n"
        "print('loaded:', [name for name in ('torch', 'megatron.core') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
