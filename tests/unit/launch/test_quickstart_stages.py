"""What a quickstart says of its model is of the training that it tells of."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

import launch.full.training
import launch.quickstart
from launch.finish import seconds_of
from launch.full.settings import FullConfig
from launch.quickstart import QuickstartConfig
from launch.stages import Stages
from megatron_seed.checkpoint import manifest


def small(run_dir: Path, stages: Stages) -> dict[str, Any]:
    return launch.quickstart._train_and_export(QuickstartConfig(run_dir), stages)


def full(run_dir: Path, stages: Stages) -> dict[str, Any]:
    return launch.full.training.train_and_export(FullConfig(run_dir), stages, None)


@pytest.mark.parametrize(
    ("module", "function", "build", "export"),
    [(launch.quickstart, small, "build", "prove_export"), (launch.full.training, full, "builds", "export")],
)
def test_a_training_that_was_done_again_is_exported_again(
    module: ModuleType,
    function: Callable[[Path, Stages], dict[str, Any]],
    build: str,
    export: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainings = []

    def train(config: Any, recipe: Any) -> dict[str, Any]:
        recipe.run_dir.mkdir()
        trainings.append(f"training {len(trainings)}")
        return {"loss": trainings[-1], "model": {}, "versions": {}}

    def write(train: Path, hf: Path) -> dict[str, Any]:
        hf.mkdir(exist_ok=True)
        manifest.write_manifest(hf)
        return {"of": trainings[-1]}

    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "_with_paths", lambda config: recipe_at(config.run_dir))
    monkeypatch.setattr(module, export, write)
    monkeypatch.setattr(module, "generate", lambda *_: trainings[-1])

    def run() -> tuple[str, str, str]:
        stages = Stages(tmp_path, Console(file=io.StringIO()))
        stages.run(build, "of equal documents", dict)
        found = function(tmp_path, stages)
        return found["training"]["loss"], found["export"]["of"], found["samples"]

    assert run() == run() == ("training 0",) * 3
    shutil.rmtree(tmp_path / "train")
    assert run() == run() == ("training 1",) * 3
    shutil.rmtree(tmp_path / "hf")
    assert run() == ("training 1",) * 3


def recipe_at(run_dir: Path) -> Any:
    return launch.quickstart.recipe_here("quickstart", [f"run_dir={run_dir / 'train'}"])


def test_steps_without_a_row_take_time_too() -> None:
    rows = [{"step": 10, "step_seconds": 0.5}, {"step": 20, "step_seconds": 0.25}]
    assert seconds_of(rows) == 7.5
    assert seconds_of(rows[1:], before=10) == 2.5
    assert seconds_of([]) == 0.0
