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
    found = (p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name) and (p / NAME).is_file())
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def resolve(path: Path) -> Path:
    """A checkpoint from its own folder, or the newest one from a run folder or its `checkpoints`."""
    if (path / ".metadata").is_file():
        return path
    found = finished(path.parent if path == checkpoints_dir(path.parent) else path)
    return found[-1] if found else path


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither counted nor taken for one; a person may look at it."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def prune(run_dir: Path, keep_last: int) -> None:
    """Remove what interrupted saves left, and all but the newest checkpoints."""
    for path in checkpoints_dir(run_dir).glob(".step-*"):
        shutil.rmtree(path)
    for path in finished(run_dir)[:-keep_last]:
        # Renamed first: a removal that is cut short must not leave a folder that looks finished.
        doomed = path.with_name(f".{path.name}.old")
        path.rename(doomed)
        shutil.rmtree(doomed)
