"""A quickstart that is killed ten times ends as one that never was: same data, same model, bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    write_corpus,
    written,
)
from safetensors.torch import load_file

SEED = 1
SETTINGS = ("logging.tensorboard=false", 'logging.wandb="off"', "checkpoint.every_steps=5")
MARK = "MEGATRON_SEED_KILLED_RUN"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1400)]


@dataclass(frozen=True)
class Moment:
    """When an attempt is killed: once `stage` has begun and `sign` is there, up to `within_s` later."""

    stage: str
    within_s: float
    sign: Callable[[Path], bool] = lambda run_dir: True

    def delay_s(self, number: int) -> float:
        """Drawn by hash, so that every run of the test draws the same."""
        digest = hashlib.sha256(f"{SEED}:{number}".encode()).digest()
        return self.within_s * int.from_bytes(digest[:8], "big") / 2**64


def has_evaluated(run_dir: Path) -> bool:
    return (run_dir / "train" / "metrics.jsonl").exists()


def is_saving(run_dir: Path) -> bool:
    return any((run_dir / "train" / "checkpoints").glob(".step-*.tmp"))


def is_past_a_checkpoint(run_dir: Path) -> bool:
    return (run_dir / "train" / "checkpoints" / "latest").exists()


def is_writing_hf(run_dir: Path) -> bool:
    return (run_dir / ".hf.tmp").exists()


MOMENTS = (
    Moment("corpus", 0.5),
    Moment("tokenizer", 0.5),
    Moment("build", 0.5),
    Moment("train", 0.3, has_evaluated),
    Moment("train", 0.2, is_saving),
    Moment("train", 3.0, is_past_a_checkpoint),
    Moment("train", 1.0, is_saving),
    Moment("export", 6.0),
    Moment("export", 0.1, is_writing_hf),
    Moment("generate", 5.0),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "code")


@pytest.fixture(scope="module")
def never_killed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("never_killed") / "run"
    run_to_the_end(corpus, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def killed(corpus: Path, never_killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    for number, moment in enumerate(MOMENTS):
        kill_at(corpus, run_dir, moment, moment.delay_s(number))
    run_to_the_end(corpus, run_dir)
    return run_dir


def run_to_the_end(corpus: Path, run_dir: Path) -> None:
    result = run_command(quickstart_command(corpus, run_dir, settings=SETTINGS), timeout_s=400)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]


def kill_at(corpus: Path, run_dir: Path, moment: Moment, delay_s: float) -> None:
    """Start the quickstart and kill its process group with SIGKILL; everything it started must die with it."""
    with attempt(corpus, run_dir) as (process, output):
        deadline = time.monotonic() + 300
        while not (f"\n{moment.stage} ──" in written(output) and moment.sign(run_dir)):
            assert process.poll() is None, f"ended before {moment}:\n{written(output)[-4000:]}"
            assert time.monotonic() < deadline, f"{moment} did not come:\n{written(output)[-4000:]}"
            time.sleep(0.005)
        time.sleep(delay_s)
    alive = wait_for_death(run_dir)
    assert not alive, f"outlived the run killed at {moment}: {alive}"


@contextlib.contextmanager
def attempt(corpus: Path, run_dir: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    output = run_dir.with_name("output.txt")
    with output.open("w") as stream:
        process = subprocess.Popen(
            quickstart_command(corpus, run_dir, settings=SETTINGS),
            env=environment(**{MARK: str(run_dir)}),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_death(run_dir: Path, timeout_s: float = 10.0) -> dict[int, str]:
    """Processes of a run that are left after a while; they are killed then, whoever their parent is."""
    deadline = time.monotonic() + timeout_s
    while (alive := processes_of(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return alive


def processes_of(run_dir: Path) -> dict[int, str]:
    """Every process that inherited the mark of this run: pid and command."""
    mark, found = f"{MARK}={run_dir}".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def metrics(run_dir: Path, kind: str) -> list[dict]:
    rows = map(json.loads, (run_dir / "train" / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def test_the_model_is_the_same_bit_for_bit(killed: Path, never_killed: Path) -> None:
    ours, theirs = (load_file(run_dir / "hf" / "model.safetensors") for run_dir in (killed, never_killed))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_each_step_is_recorded_once(killed: Path, never_killed: Path) -> None:
    assert [row["step"] for row in metrics(killed, "train")] == list(range(1, STEPS + 1))
    evaluated = [(row["step"], row["source"]) for row in metrics(killed, "evaluation")]
    assert evaluated == list(itertools.product(range(0, STEPS + 1, EVERY_STEPS), ("held_out", "infilling")))
    for kind in ("train", "evaluation"):
        ours, theirs = ([row["loss"] for row in metrics(run_dir, kind)] for run_dir in (killed, never_killed))
        assert ours == theirs


@pytest.mark.parametrize("name", ["corpus", "tokenizer", "builds"])
def test_the_data_are_the_same_byte_for_byte(name: str, killed: Path, never_killed: Path) -> None:
    assert digests(killed / name) == digests(never_killed / name)


def test_nothing_temporary_is_left(killed: Path, never_killed: Path) -> None:
    assert leftovers(killed) == []
    assert {path.name for path in killed.iterdir()} == {path.name for path in never_killed.iterdir()}
