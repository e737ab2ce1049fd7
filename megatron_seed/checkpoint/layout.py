"""Where checkpoints lie in a run folder, which of them are whole, and which may go."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from megatron_seed.checkpoint.manifest import NAME, has_sizes

LATEST = "latest"
_ASIDE = "damaged-"


def checkpoints_dir(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def step_dir(run_dir: Path, step: int) -> Path:
    return checkpoints_dir(run_dir) / f"step-{step:08d}"


def is_name(name: str) -> bool:
    """The name of a checkpoint that was moved into place."""
    return bool(re.fullmatch(r"step-\d{8,}", name))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def all_of(run_dir: Path) -> list[Path]:
    """Everything with a checkpoint's name, oldest first; one without a manifest was damaged after it was saved."""
    folder = checkpoints_dir(run_dir)
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if is_name(path.name) and path.is_dir())
    return sorted(found, key=step_of)


def finished(run_dir: Path) -> list[Path]:
    """Checkpoints that were renamed into place, oldest first."""
    return [path for path in all_of(run_dir) if (path / NAME).is_file()]


def resolve(path: Path) -> Path:
    """A checkpoint from its own folder, or the newest one from a run folder or its `checkpoints`."""
    if (path / ".metadata").is_file():
        return path
    found = finished(path.parent if path == checkpoints_dir(path.parent) else path)
    return found[-1] if found else path


def set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it is neither counted nor taken for one; a person may look at it.

    Only the newest of those set aside is kept: they take room.
    """
    aside = checkpoint.with_name(_ASIDE + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    known = [path for path in checkpoint.parent.glob(f"{_ASIDE}*") if is_name(path.name.removeprefix(_ASIDE))]
    for path in sorted(known, key=lambda path: int(path.name.removeprefix(f"{_ASIDE}step-")))[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def prune(run_dir: Path, keep_last: int, keep_every_steps: int = 0) -> None:
    """Remove what interrupted saves left, and all checkpoints but the last ones and those of every Nth step.

    Nothing goes when none of those that would stay is whole: the last good one must outlive damage to later ones.
    """
    for path in checkpoints_dir(run_dir).glob(".step-*"):
        shutil.rmtree(path)
    found = finished(run_dir)
    kept = _kept(found, keep_last, keep_every_steps)
    if not any(has_sizes(path) for path in kept):
        return
    for path in found:
        if path in kept:
            continue
        # Renamed first: a removal that is cut short must not leave a folder that looks finished.
        doomed = path.with_name(f".{path.name}.old")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _kept(found: Sequence[Path], keep_last: int, keep_every_steps: int) -> set[Path]:
    forever = {path for path in found if keep_every_steps and step_of(path) % keep_every_steps == 0}
    return forever | set(found[-keep_last:])
