"""Holding checkpoints against their manifests, one after the other; needs nothing but their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.errors import SeedError


@dataclass(frozen=True)
class Verdict:
    """On one checkpoint."""

    path: Path
    files: int
    """With the manifest."""
    size_bytes: int
    damage: tuple[str, ...]
    """Everything that is wrong: damaged, missing and extra files."""

    def __str__(self) -> str:
        if not self.damage:
            return f"{self.path.name}: good, {self.files} files, {self.size_bytes:,} bytes"
        more = f" (and {len(self.damage) - 1} more)" if len(self.damage) > 1 else ""
        return f"{self.path.name}: damaged: {self.damage[0]}{more}"


def verify(path: Path) -> Iterator[Verdict]:
    """A verdict on the checkpoint at `path`, or on every one of the run folder there, oldest first."""
    found = _checkpoints_at(path)
    if not found:
        raise SeedError(f"{path}: no checkpoint there; give a checkpoint's folder or a run's")
    for checkpoint in found:
        damage = manifest.find_all_damage(checkpoint)
        sizes = [(checkpoint / name).stat().st_size for name in (*manifest.list_files(checkpoint), manifest.NAME)
                 if (checkpoint / name).is_file()]  # fmt: skip
        yield Verdict(checkpoint, len(sizes), sum(sizes), tuple(damage))


def _checkpoints_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    run_dir = path.parent if path == layout.checkpoints_dir(path.parent) else path
    if layout.checkpoints_dir(run_dir).is_dir():
        return layout.all_of(run_dir)
    # Also one whose manifest or table of contents is gone: it is what a person calls a checkpoint.
    known = (manifest.NAME, ".metadata", "common.pt", "state.json")
    return [path] if layout.is_name(path.name) or any((path / name).is_file() for name in known) else []
