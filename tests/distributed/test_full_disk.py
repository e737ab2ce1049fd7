"""A disk that is full during a save costs that checkpoint and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_parity import losses

from megatron_seed.checkpoint.layout import checkpoints_dir, finished, step_dir
from megatron_seed.checkpoint.manifest import find_all_damage
from megatron_seed.train import metrics

SCRIPT = Path(__file__).parent / "with_faults_in_saves.py"
TP2 = {"tensor_parallel": 2}


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts one where a run keeps its checkpoints; gives the file that fills it."""
    mounted = []

    def mount(run_dir: Path) -> Path:
        folder = checkpoints_dir(run_dir)
        folder.mkdir(parents=True)
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
        if result.returncode:
            pytest.skip("a small disk needs the right to mount one")
        mounted.append(folder)
        return folder / "filler"

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def failures(run_dir: Path) -> list[tuple[int, str]]:
    rows = (row for row in metrics.read(run_dir) if row["kind"] == "event" and row["event"] == "save_failed")
    return [(row["step"], row["error"]) for row in rows]


@pytest.mark.parametrize("what", ["a full disk", "one rank that cannot write"])
def test_a_run_goes_on_without_the_checkpoint_that_did_not_fit(
    what: str, tiny_recipe: Callable[..., Path], start: Callable, on_a_small_disk: Callable
) -> None:
    recipe = tiny_recipe("full", layout=TP2, checkpoint={"every_steps": 5})
    run_dir = recipe.with_suffix("")
    result = start(SCRIPT, recipe, "10", "14", on_a_small_disk(run_dir) if "disk" in what else "limit", processes=2)
    assert len(losses(run_dir)) == 20
    assert [step for step, _ in failures(run_dir)] == [10, 10]
    for _, error in failures(run_dir):
        assert "step-00000010.tmp" in error
        assert ("No space left on device" if "disk" in what else "rank 1: [Errno 27] File too large") in error
    assert result.stderr.count("save failed") == 2
    assert [path.name for path in finished(run_dir)] == ["step-00000005", "step-00000015", "step-00000020"]
    assert all(find_all_damage(path) == [] for path in finished(run_dir))
    assert not list(checkpoints_dir(run_dir).glob(".step-*"))


def test_the_last_checkpoint_of_a_run_must_be_written(
    tiny_recipe: Callable[..., Path], start: Callable, on_a_small_disk: Callable
) -> None:
    recipe = tiny_recipe("full", checkpoint={"every_steps": 15})
    run_dir = recipe.with_suffix("")
    result = start(SCRIPT, recipe, "19", "999", on_a_small_disk(run_dir), check=False)
    assert result.returncode == 2
    assert "megatron-seed: step 20 could not be saved (rank 0: [Errno 28]" in result.stderr
    assert "Traceback" not in result.stderr
    assert finished(run_dir) == [step_dir(run_dir, 15)]
    assert find_all_damage(step_dir(run_dir, 15)) == []
