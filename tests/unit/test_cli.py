"""The command line: what cannot work is refused in one line, before any process starts; help is quick."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from launch import cli

HEAVY = ("torch", "transformers", "megatron.core", "duckdb", "pyarrow", "wandb")


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `megatron-seed ARGUMENTS` in this process; gives its exit code and what it said on stderr."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["megatron-seed", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, capfd.readouterr().err

    return run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Commands that would have replaced this process."""
    for name in [name for name in os.environ if name in ("RANK", "WORLD_SIZE") or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    commands: list[list[str]] = []

    def execv(path: str, command: list[str]) -> None:
        commands.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    yield commands


def test_a_single_process_is_started_as_it_is(console: Callable, started: list, tiny_recipe: Callable) -> None:
    recipe = tiny_recipe()
    assert console("train", recipe, "seed=5")[0] == 0
    assert started == [[sys.executable, "-m", "megatron_seed.train", str(recipe), "seed=5"]]


def test_several_processes_are_started_by_torchrun(console: Callable, started: list, tiny_recipe: Callable) -> None:
    recipe = tiny_recipe(layout={"tensor_parallel": 2})
    assert console("train", recipe, "--processes", "4")[0] == 0
    ((python, *arguments),) = started
    assert python == sys.executable
    assert arguments[:2] == ["-m", "torch.distributed.run"] and "--nproc-per-node=4" in arguments
    assert arguments[-3:] == ["-m", "megatron_seed.train", str(recipe)]


def test_under_torchrun_no_second_torchrun_is_started(
    console: Callable, started: list, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = tiny_recipe(layout={"tensor_parallel": 2})
    assert console("train", recipe, "--processes", "2")[0] == 0
    assert started == [[sys.executable, "-m", "megatron_seed.train", str(recipe)]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["layout.tensor_parallel=2"],
            "1 processes do not divide by tensor_parallel 2 x pipeline_parallel 1 x context_parallel 1 = 2",
        ),
        (["layout.pipeline_parallel=3", "--processes", "3"], "num_layers 4 does not divide by pipeline_parallel 3"),
        (["--processes", "3"], "global_batch_size 8 does not divide by micro_batch_size 1 x data parallel 3 = 3"),
        (["phases.0.sequence_length=4096"], "sequence_length 4096 is above the model's max_sequence_length 128"),
        (["layout.sequence_parallel=true"], "sequence_parallel needs tensor_parallel > 1"),
        (["model.hiden_size=3"], "unknown key model.hiden_size; did you mean hidden_size?"),
        (["seed=x"], "seed: Input should be a valid integer"),
        (["seed"], "override 'seed': write it as key=value"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    arguments: list[str], message: str, console: Callable, started: list, tiny_recipe: Callable
) -> None:
    code, said = console("train", tiny_recipe(), *arguments)
    assert code == 2 and started == []
    assert said.startswith("megatron-seed: ") and message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("count", ["0", "-2"])
def test_fewer_than_one_process_is_refused(count: str, console: Callable, started: list, tiny_recipe: Callable) -> None:
    code, said = console("train", tiny_recipe(), "--processes", count)
    assert code == 2 and started == []
    assert "--processes" in said and "Traceback" not in said


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do(console: Callable, started: list) -> None:
    code, said = console("train", "nowhere.yaml")
    assert (code, said.count("\n")) == (2, 1) and started == []
    assert "no recipe file nowhere.yaml; shipped recipes: " in said and "quickstart" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "{missing}", "x"],
        ["hf", "export", "{missing}", "{out}"],
        ["hf", "import", "{missing}", "{out}"],
        ["hf", "verify", "{missing}", "{missing}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_is_not_there_is_named_in_one_line(arguments: list[str], console: Callable, tmp_path: Path) -> None:
    places = {"missing": tmp_path / "missing", "out": tmp_path / "out"}
    code, said = console(*(argument.format(**places) for argument in arguments))
    assert (code, said.count("\n")) == (2, 1)
    assert str(places["missing"]) in said
    assert not places["out"].exists()


def commands(group: click.Group, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield name
    for child, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*name, child))
        else:
            yield (*name, child)


COMMANDS = sorted(commands(typer.main.get_command(cli.app)))


def test_what_an_object_store_refuses_is_said_in_one_line(console: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    code, said = console("data", "inspect", "s3://bucket/corpus")
    assert code == 2 and said == "megatron-seed: object store: Unable to locate credentials\n"


def test_the_commands_are_those_that_the_documentation_names() -> None:
    assert {("train",), ("generate",), ("quickstart",), ("hf", "export"), ("hf", "import"), ("hf", "verify")} <= set(
        COMMANDS
    )


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: " ".join(name) or "megatron-seed")
def test_every_command_explains_itself(name: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*name, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output and len(result.output.splitlines()) > 4


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys; sys.argv = ['megatron-seed', 'train', '--help']\n"
        "from launch.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit_: assert not exit_.code\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
