"""The code and the settings of a submission, kept in the run folder: what is edited later does not change the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import launch
from launch.slurm.history import launch_dir
from megatron_seed.checkpoint.manifest import find_damage, sync_folder, write_manifest, write_text
from megatron_seed.runtime import device

PACKAGES = ("launch", "data_prep", "megatron_seed", "tokenizer")


def packages_folder() -> Path:
    """Where this program's packages lie."""
    return Path(launch.__file__).resolve().parents[1]


def installed_code() -> Path | None:
    """The packages of a checkout; None where they are installed beside others, and found there."""
    folder = packages_folder()
    return None if folder.name in ("site-packages", "dist-packages") else folder


def snapshot_code(run_dir: Path) -> Path:
    """Copy the packages as they are now; what was copied before is taken again. Returns the folder."""
    source = packages_folder()
    files = dict(_files(source))
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    folder = launch_dir(run_dir) / f"code-{digest}"
    if folder.is_dir() and find_damage(folder) is None:
        return folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for doomed in (temporary, folder):
        shutil.rmtree(doomed, ignore_errors=True)
    for name in files:
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, temporary / name)
    revision = device.git_revision()
    if revision:  # as in a checkout of it, which is where checkpoints look for it
        (temporary / ".git").mkdir()
        write_text(temporary / ".git" / "HEAD", f"{revision}\n")
    write_manifest(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)
    return folder


def _files(source: Path) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((source / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(source).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def submission_dir(run_dir: Path) -> Path:
    """A new folder for the files of a submission."""
    base = launch_dir(run_dir)
    number = 1 + max((int(path.name[-4:]) for path in base.glob("submission-[0-9][0-9][0-9][0-9]")), default=0)
    folder = base / f"submission-{number:04d}"
    folder.mkdir(parents=True)
    return folder


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        write_text(folder / name, text)
    sync_folder(folder)
