"""Repositories out of what is installed on a machine: each package that is small enough to be taken whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.languages import may_be_code
from data_prep.sources.base import IGNORED_FOLDERS
from megatron_seed.errors import SeedError

LEAST_BYTES = 20_000
"""Smaller packages say little about how a repository hangs together; ours."""
IGNORED = IGNORED_FOLDERS | {"site-packages", "dist-packages"}
_FILE_BYTES = 1 << 20
_LICENCES = ("LICENSE", "LICENCE", "COPYING")
# Where packages of several languages lie, and how much of the cap each place may fill.
_PLACES = (
    ("standard_library", sysconfig.get_path("stdlib"), 0.2),
    ("python_packages", sysconfig.get_path("purelib"), 0.5),
    ("c_headers", "/usr/include", 0.15),
    ("node_packages", "/usr/lib/node_modules/npm/node_modules", 0.15),
    ("node_packages", "/usr/local/lib/node_modules/npm/node_modules", 0.15),
)


def copy_packages(into: Path, cap_bytes: int, most_bytes: int) -> list[dict[str, Any]]:
    """Copies whole packages into `into`/PLACE/NAME, in the order of a hash of their names, until `cap_bytes` are there.

    Files that cannot be code stay where they are. Returns for each place: name, path, packages, taken, size_bytes, and
    passed over because they were too large or small, or not reached. Raises SeedError when there is nothing.
    """
    found = []
    for name, path, share in _PLACES:
        if os.path.isdir(path) and not any(place["name"] == name for place in found):
            found.append({"name": name, **_copy_place(Path(path), into / name, int(cap_bytes * share), most_bytes)})
    if not any(place["taken"] for place in found):
        raise SeedError(f"no installed package has {LEAST_BYTES:,} to {most_bytes:,} bytes of code; give --corpus")
    return found


def _copy_place(place: Path, into: Path, cap_bytes: int, most_bytes: int) -> dict[str, Any]:
    counts = {"packages": 0, "taken": 0, "size_bytes": 0, "too_large": 0, "too_small": 0, "not_reached": 0}
    with os.scandir(place) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if name in IGNORED or name.endswith((".dist-info", ".egg-info")) or name.startswith("."):
            continue
        counts["packages"] += 1
        files = list(_files(place / name))
        size = sum(size for _, size in files)
        if size < LEAST_BYTES or size > most_bytes:
            counts["too_small" if size < LEAST_BYTES else "too_large"] += 1
        elif counts["size_bytes"] + size > cap_bytes:
            counts["not_reached"] += 1
        else:
            _copy(place / name, [path for path, _ in files], into / name)
            counts["taken"] += 1
            counts["size_bytes"] += size
    return {"path": str(place), **counts}


def _files(package: Path) -> Iterator[tuple[str, int]]:
    """(path below the package, size) of what may be code."""
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or not (may_be_code(name) or name.upper().startswith(_LICENCES)):
                continue
            if (size := path.stat().st_size) <= _FILE_BYTES:
                yield str(path.relative_to(package)), size


def _copy(package: Path, files: list[str], into: Path) -> None:
    """With their times, which tell an import whether a file has changed; what was copied before stays."""
    for name in files:
        target = into / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.copying")
            shutil.copyfile(package / name, temporary)
            os.utime(temporary, ns=(0, 0))
            temporary.rename(target)
