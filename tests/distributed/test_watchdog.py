"""Jobs that stand still or lose a process end in time, with one line that names the rank."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_seed.runtime import exit_codes
from megatron_seed.train import metrics

SCRIPT = Path(__file__).parent / "one_rank_misbehaves.py"
HOST = socket.gethostname()
Ended = Callable[[str], tuple[list[int | None], str]]
"""Exit codes of a job's processes, by rank, and all that they said."""


@pytest.fixture
def run_jobs(start: Callable, tmp_path: Path) -> Callable[..., Ended]:
    """Runs jobs WHAT:RANK:STEP:PROCESSES:WHERE by name, all at once and with nobody to watch over their processes."""

    def run(**jobs: str) -> Ended:
        start(SCRIPT, tmp_path, *(f"{name}={told}" for name, told in jobs.items()))
        return lambda name: (
            json.loads((tmp_path / f"{name}.json").read_text()),
            (tmp_path / f"{name}.txt").read_text() if (tmp_path / f"{name}.txt").exists() else "",
        )

    return run


def the_line(said: str) -> str:
    """What the job said, once for all its ranks."""
    (line,) = (line for line in said.splitlines() if line.startswith("megatron-seed: "))
    return line


def hang_folder(run_dir: Path) -> Path:
    (folder,) = (run_dir / "hang").iterdir()
    return folder


def test_the_rank_that_keeps_a_training_waiting_is_named(
    tiny_recipe: Callable[..., Path], run_jobs: Callable[..., Ended]
) -> None:
    skips, reads = (tiny_recipe(name, watchdog={"hang_timeout_s": 5}) for name in ("skips", "reads"))
    ended = run_jobs(skip=f"skip:2:5:4:{skips}", read=f"read:1:3:2:{reads}")
    codes, said = ended("skip")
    assert codes == [exit_codes.HUNG] * 4
    the_all_reduce_that_rank_2_skipped_is_named(the_line(said), hang_folder(skips.with_suffix("")))
    codes, said = ended("read")
    assert codes == [exit_codes.HUNG] * 2
    assert f"rank 1 ({HOST}) stands waiting for its data, thread prefetch at " in the_line(said)
    assert f"rank 0 ({HOST}) stands waiting for the others' data" in the_line(said)
    assert "one_rank_misbehaves.py" in (hang_folder(reads.with_suffix("")) / "rank-1.txt").read_text()


def the_all_reduce_that_rank_2_skipped_is_named(line: str, folder: Path) -> None:
    assert f"since step 4; rank 2 ({HOST}) never joined all_reduce [2] float64, number " in line
    assert "called at megatron_seed/train/step.py:" in line and "(_over_replicas) by ranks 0-1, 3" in line
    assert line.endswith(f"stacks are in {folder}")
    assert (folder / "summary.txt").read_text().strip() == line.removeprefix("megatron-seed: ")
    for rank in range(4):
        told = (folder / f"rank-{rank}.txt").read_text()
        assert " in _step\n" in told and "_over_replicas" in told
        assert json.loads((folder / f"rank-{rank}.json").read_text())["finished"] == "step 4"


def test_under_torchrun_a_slow_rank_is_named_and_when_it_dies_before_the_others_are_ended(
    tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    recipe = tiny_recipe("limps", watchdog={"slow_rank_steps": 3, "slow_rank_ratio": 3})
    ended = start(SCRIPT, f"limp:2:5:4:{recipe}", processes=4, check=False, timeout_s=120)
    assert ended.returncode
    (slow,) = (row for row in metrics.read(recipe.with_suffix("")) if row["kind"] == "event")
    assert (slow["event"], slow["step"], slow["ranks"], slow["hosts"]) == ("slow_ranks", 4, [2], [HOST])
    assert slow["busy_s"][0] > 1 > slow["usual_s"][0]
    assert the_line(ended.stderr).startswith(f"megatron-seed: rank 2 ({HOST}, process ")
    assert the_line(ended.stderr).endswith(" died: the job cannot go on, the last it finished was step 4")


def test_processes_that_nobody_watches_end_by_themselves(tmp_path: Path, run_jobs: Callable[..., Ended]) -> None:
    jobs = {
        "rank_2_dies": "die:2:5:4",
        "rank_0_dies": "die:0:5:4",
        "fails": "fail:1:5:2",
        "holds": "hold:1:5:2",
        "sleeps_alone": "sleep:0:5:1",
        "begins_slowly": "dawdle:1:1:2",
    }
    ended = run_jobs(**{name: f"{told}:{tmp_path}/{name}" for name, told in jobs.items()})
    for rank in (0, 2):
        the_death_of_a_rank_is_named(rank, *ended(f"rank_{rank}_dies"))

    codes, said = ended("fails")
    assert codes == [exit_codes.LOST_PEER, 1]
    assert said.count("Traceback") == 1, "its own error is shown, not those that come of it"
    assert f"rank 1 ({HOST}, process " in the_line(said)
    assert "ended with IndexError: something of its own" in the_line(said)

    codes, said = ended("holds")
    assert codes == [exit_codes.HUNG, 1]
    assert f"rank 1 ({HOST}) never joined all_reduce [3] float32" in the_line(said)
    assert f"rank 1 ({HOST}) gave no report" in the_line(said)
    assert "hold_the_interpreter" in (hang_folder(tmp_path / "holds") / "rank-1.txt").read_text()

    codes, said = ended("sleeps_alone")
    assert codes == [exit_codes.HUNG]
    assert "since step 4; rank 0" in the_line(said) and "one_rank_misbehaves.py" in the_line(said)

    codes, said = ended("begins_slowly")
    assert codes == [0, 0] and "megatron-seed" not in said, "a slow first step is no alarm"
    assert not (tmp_path / "begins_slowly" / "hang").exists(), "nothing to tell, nothing left behind"


def the_death_of_a_rank_is_named(rank: int, codes: list[int | None], said: str) -> None:
    assert codes == [-9 if other == rank else exit_codes.LOST_PEER for other in range(4)]
    assert the_line(said).startswith(f"megatron-seed: rank {rank} ({HOST}, process ")
    assert the_line(said).endswith(" died: the job cannot go on, the last it finished was step 4")
