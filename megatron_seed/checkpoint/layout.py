"""Where checkpoints lie in a run folder, which of them are whole, and which may go."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from megatron_seed.checkpoint.manifest import NAME

LATEST = "latest"


def checkpoints_dir(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def step_dir(run_dir: Path, step: int) -> Path:
    return checkpoints_dir(run_dir) / f"step-{step:08d}"


def finished(run_dir: Path) -> list[Path]:
    """Checkpoints that were renamed into place, oldest first."""
    folder = checkpoints_dir(run_dir)
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name) and (p / NAME).is_file())


def resolve(path: Path) -> Path:
    """A checkpoint from its own folder, or the newest one from a run folder or its `checkpoints`."""
    if (path / ".metadata").is_file():
        return path
    for run_dir in (path, path.parent):
        if finished(run_dir):
            return finished(run_dir)[-1]
    return path


def prune(run_dir: Path, keep_last: int) -> None:
    """Remove what interrupted saves left, and all but the newest checkpoints."""
    for path in checkpoints_dir(run_dir).glob(".step-*"):
        shutil.rmtree(path)
    for path in finished(run_dir)[:-keep_last]:
        # Renamed first: a removal that is cut short must not leave a folder that looks finished.
        doomed = path.with_name(f".{path.name}.old")
        path.rename(doomed)
        shutil.rmtree(doomed)
