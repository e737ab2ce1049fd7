"""The manifest of a folder: every file's size and SHA-256. A folder without one, or at odds with it, is not trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron_seed.checkpoint.digesting import DigestingFile, Entry

NAME = "manifest.json"
_BLOCK = 1 << 22
_THREADS = 8


def write_bytes(path: Path, data: bytes) -> Entry:
    """Write a new file and force it to disk."""
    with DigestingFile(path) as file:
        file.write(data)
    return file.entry


def digest_file(path: Path) -> Entry:
    """Size and SHA-256 of a file, after forcing it to disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while block := file.read(_BLOCK):
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


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Entries by file name. Raises ValueError saying what is wrong with the manifest."""
    path = folder / NAME
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: {"size_bytes": entry["size_bytes"], "sha256": entry["sha256"]} for name, entry in files.items()}
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def find_damage(folder: Path) -> str | None:
    """The first thing that is wrong with a folder against its manifest, None when every byte is as it was written.

    Files that the manifest does not name do no harm to what it does.
    """
    try:
        return next(damages(folder, read_manifest(folder)), None)
    except ValueError as error:
        return str(error)


def find_all_damage(folder: Path) -> list[str]:
    """Everything that is wrong with a folder: its manifest, files damaged, missing or extra."""
    try:
        expected = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    extra = [f"{folder / name} is not in the manifest" for name in list_files(folder) if name not in expected]
    return [*damages(folder, expected), *extra]


def damages(folder: Path, expected: Mapping[str, Entry]) -> Iterator[str]:
    """What is wrong with these files of a folder; read by several threads, told in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for damage in pool.map(lambda name: _damage(folder / name, expected[name]), expected):
            if damage:
                yield damage


def has_sizes(folder: Path) -> bool:
    """Every file is there and as long as the manifest says: a glance, without reading them."""
    try:
        return not any(_wrong_size(folder / name, entry) for name, entry in read_manifest(folder).items())
    except (ValueError, OSError):
        return False


def _damage(path: Path, entry: Entry) -> str | None:
    try:
        wrong = _wrong_size(path, entry)
        if wrong is None and digest_file(path)["sha256"] != entry["sha256"]:
            wrong = f"{path} does not have the digest it was written with"
        return wrong
    except OSError as error:  # what a failing disk gives
        return f"{path} cannot be read: {error}"


def _wrong_size(path: Path, entry: Entry) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != entry["size_bytes"]:
        return f"{path} has {path.stat().st_size} bytes instead of {entry['size_bytes']}"
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
