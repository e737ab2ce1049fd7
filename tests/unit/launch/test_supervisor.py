"""A run that is cancelled while its job is between the things that hear of it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.slurm import control, step, supervise
from launch.slurm.history import History
from launch.slurm.supervise import GAVE_UP, Supervisor

_OPTIONS = ("--nodes=1", "--processes=1", "--requeue", "--at-time-limit=requeue", "--health=timeout_s=1")
# What Slurm does with a step of one process: srun runs it in a process group of its own, scancel signals that.
_FAKES = {
    "srun": """\
while [[ $1 == --* ]]; do shift; done
echo $$ >"$FAKE/group"
export SLURM_PROCID=0 SLURMD_NODENAME=n1
exec setsid --wait "$@"
""",
    "squeue": """\
[ ! -e "$FAKE/group" ] || printf '7.1 training\\n7.0 other\\n'
""",
    "scancel": """\
echo "$*" >>"$FAKE/told"
kill -USR1 -- -"$(cat "$FAKE/group")"
""",
    "scontrol": """\
case $2 in
    hostnames) printf 'n1\\n' ;;
    job) echo "JobId=7 Reason=None NodeList=n1" ;;
esac
""",
}
TRAIN = """\
import signal, sys, time
heard = []
signal.signal(signal.SIGUSR1, lambda *of_it: heard.append(1))
open(sys.argv[1], "w").close()
for _ in range(400):
    if heard:
        sys.exit(75)
    time.sleep(0.05)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of one node that runs this job, number 7; `told` in the folder is what scancel was called with."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in _FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"FAKE": str(folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def supervisor(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Supervisor]:
    """Of a run whose health check does what it is told to, and then finds `bad` nodes."""
    handler = signal.getsignal(signal.SIGTERM)

    def make(during_check: Callable[[History], object], bad: Mapping[str, str], *command: str) -> Supervisor:
        class Check:
            def __init__(self, *of_a_run: object) -> None:
                """Nothing to keep."""

            def unhealthy(self, candidates: Sequence[str]) -> Mapping[str, str]:
                during_check(History(tmp_path / "run"))
                return bad

        monkeypatch.setattr(supervise, "HealthCheck", Check)
        given = [f"--run-dir={tmp_path / 'run'}", *_OPTIONS, "--", *command]
        return Supervisor(supervise.parser().parse_args(given))

    yield make
    signal.signal(signal.SIGTERM, handler)


def named(supervisor: Supervisor) -> list[str]:
    return [event["event"] for event in supervisor.history.events()]


@pytest.mark.parametrize("bad", [{}, {"n1": "no answer to the health check"}], ids=["fit", "did not answer"])
def test_a_run_that_is_cancelled_during_the_health_check_never_trains(
    bad: Mapping[str, str], supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    made = supervisor(lambda history: history.add("cancelled"), bad, "touch", str(tmp_path / "trained"))
    assert made.run() == GAVE_UP
    assert not (tmp_path / "trained").exists()
    assert named(made) == ["started", "cancelled"]


def test_training_that_did_not_hear_of_its_cancellation_is_told(
    supervisor: Callable[..., Supervisor], slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cancelled` is noted once training runs, and nothing but the supervisor signals it."""
    ready = tmp_path / "ready"
    made = supervisor(lambda history: None, {}, sys.executable, "-c", TRAIN, str(ready))
    look = made._look

    def cancel_then_look() -> None:
        if ready.exists() and "cancelled" not in named(made):
            made.history.add("cancelled")
        look()

    monkeypatch.setattr(made, "_look", cancel_then_look)
    monkeypatch.setattr(step, "_LOOK_EVERY_S", 0.2)
    assert made.run() == GAVE_UP
    assert (slurm / "told").read_text().splitlines() == ["--quiet --signal=USR1 7.1"]
    assert named(made) == ["started", "attempt", "cancelled", "ended"]
    assert made.history.events()[-1]["why"] == "stopped early, saved"


def test_training_is_told_again_when_nobody_heard(
    supervisor: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, times, now = supervisor(lambda history: None, {}, "true"), [], [1000.0]

    def tell(job: str) -> None:
        times.append(now[0])
        raise control.SlurmError("the controller is away")

    monkeypatch.setattr(supervise.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(step, "stop_training", tell)
    made._look()
    assert times == []
    made.history.add("cancelled")
    for now[0] in range(1001, 1065):
        made._look()
    assert times == [1001, 1031, 1061]


def test_a_cancelled_run_is_not_requeued_at_the_time_limit(
    supervisor: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = supervisor(lambda history: None, {}, "true")
    made.history.add("cancelled")
    made.terminated = made.at_limit = True
    monkeypatch.setattr(step, "stop_training", lambda job: None)
    made._look()
    assert named(made) == ["cancelled"]


def test_events_are_noted_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*of_a_file: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    history = History(tmp_path)
    history.add("submitted")
    history.add("cancelled")
    assert [event["event"] for event in history.events()] == ["submitted", "cancelled"]
