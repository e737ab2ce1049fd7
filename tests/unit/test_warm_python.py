"""The Python that tests start processes with does what Python does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

TELLS = """
import os, sys
print(sys.argv[1:], __name__, os.getcwd(), os.environ["MARK"], sys.stdin.read())
print("error", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAITS = """
import os, signal, time
signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(7))
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["Python", "warm"])
def any_python(request: pytest.FixtureRequest, python: str) -> str:
    return python if request.param == "warm" else sys.executable


@pytest.mark.parametrize("code", [0, 3])
def test_arguments_files_environment_folder_and_exit_code(any_python: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    for command in (["tells.py"], ["-u", "-m", "tells"]):
        ended = subprocess.run(
            [any_python, *command, str(code), "two words"],
            input="said",
            env={**os.environ, "MARK": "mark"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.stdout == f"['{code}', 'two words'] __main__ {tmp_path} mark said\n"
        assert (ended.stderr, ended.returncode) == ("error\n", code)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGUSR1, 7), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_signals_reach_it(any_python: str, number: int, code: int, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with subprocess.Popen([any_python, str(script)], stdout=subprocess.PIPE, text=True) as started:
        process = psutil.Process(int(started.stdout.readline()))
        started.send_signal(number)
        assert started.wait(timeout=30) == code
        assert not psutil.wait_procs([process], timeout=30)[1], "it outlives what was started"


def test_a_death_of_its_own_is_told(any_python: str, tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert subprocess.run([any_python, str(script)], timeout=60).returncode == -signal.SIGKILL
