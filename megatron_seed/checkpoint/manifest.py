"""The manifest of a folder: every file's size and SHA-256. A folder without one, or at odds with it, is not trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

NAME = "manifest.json"
Entry = dict[str, int | str]


def digest_file(path: Path) -> Entry:
    """Size and SHA-256 of a file, after forcing it to disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while block := file.read(1 << 22):
            digest.update(block)
        return {"size_bytes": file.tell(), "sha256": digest.hexdigest()}


def list_files(folder: Path) -> list[str]:
    """Files below a folder, relative, sorted, without the manifest."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != NAME)


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    return {name: digest_file(folder / name) for name in names}


def write_manifest(folder: Path, files: Mapping[str, Entry] | None = None) -> None:
    """Write the manifest of a finished folder, last of all its files, and force it to disk."""
    if files is None:
        files = digest_files(folder, list_files(folder))
    text = json.dumps({"files": dict(sorted(files.items()))}, indent=1)
    write_text(folder / NAME, text)
    for below in {folder, *(path for path in folder.rglob("*") if path.is_dir())}:
        sync_folder(below)


def find_damage(folder: Path) -> str | None:
    """The first thing that is wrong with a folder against its manifest, None when every byte is as it was written."""
    path = folder / NAME
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["size_bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{path} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{path} cannot be read: {error}"
    try:
        return next((damage for name in expected if (damage := _damage(folder / name, *expected[name]))), None)
    except OSError as error:  # what a failing disk gives
        return f"{folder} cannot be read: {error}"


def _damage(path: Path, size_bytes: int, sha256: str) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != size_bytes:
        return f"{path} has {path.stat().st_size} bytes instead of {size_bytes}"
    if digest_file(path)["sha256"] != sha256:
        return f"{path} does not have the digest it was written with"
    return None


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically and durably."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (creations, renames) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
