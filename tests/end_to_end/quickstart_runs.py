"""A quickstart small enough for tests, as a user would start it, and what its run folder holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

STEPS = 60
EVERY_STEPS = 20  # evaluations and checkpoints
# About 3 MB.
PACKAGES = (
    "asyncio",
    "collections",
    "concurrent",
    "curses",
    "dbm",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "re",
    "sqlite3",
    "tomllib",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
    "xmlrpc",
    "zoneinfo",
)
MODEL = (
    "model.num_layers=2",
    "model.hidden_size=64",
    "model.ffn_hidden_size=128",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    "model.vocab_size=1024",
    "model.max_sequence_length=256",
)
TRAINING = (
    "phases.0.sequence_length=128",
    "phases.0.global_batch_size=8",
    "phases.0.micro_batch_size=4",
    f"phases.0.tokens={STEPS * 8 * 128}",
    "phases.0.learning_rate.peak=3e-3",
    "phases.0.learning_rate.warmup_tokens=4096",
    "phases.0.learning_rate.decay_tokens=8192",
    f"evaluation.every_steps={EVERY_STEPS}",
    "evaluation.max_sequences=16",
    f"checkpoint.every_steps={EVERY_STEPS}",
)


def write_corpus(folder: Path, packages: Iterable[str] = PACKAGES) -> Path:
    """Some packages of this Python's standard library, each as a repository."""
    for package in packages:
        source = Path(sysconfig.get_path("stdlib")) / package
        ignored = shutil.ignore_patterns("__pycache__", "test", "tests", "_bundled")
        shutil.copytree(source, folder / package, ignore=ignored)
    return folder


def quickstart_command(corpus: Path, run_dir: Path, *more: str, settings: Iterable[str] = ()) -> list[str]:
    changes = [word for value in (*MODEL, *TRAINING, *settings) for word in ("--set", value)]
    command = [sys.executable, "-m", "launch", "quickstart", "--corpus", corpus, "--run-dir", run_dir]
    return [*map(str, command), *changes, *more]


def environment(**more: str) -> dict[str, str]:
    """This process's, without what a job scheduler set."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    return {**own, **more}


def run_command(command: list[str], timeout_s: float = 200.0) -> subprocess.CompletedProcess[str]:
    """Run to the end, output to pipes."""
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)


def written(output: Path) -> str:
    """What a command has written so far, which may end within a character."""
    return output.read_text(encoding="utf-8", errors="ignore")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, locks left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written, locks left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def leftovers(folder: Path) -> list[Path]:
    """What interrupted writers leave behind."""
    return [path for path in folder.rglob("*") if path.suffix in (".tmp", ".old") or path.name.startswith("parts-")]
