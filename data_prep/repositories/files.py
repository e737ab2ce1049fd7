"""A file of a repository as its imports are resolved, and paths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """Where a file is, and what it says (see `data_prep.repositories.extract`)."""

    path: str
    language: str
    imports: Sequence[str] = ()
    names: Sequence[str] = ()
    declares: Sequence[str] = ()


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def join(folder: str, path: str) -> str | None:
    """`path` as seen from `folder`, without `.` and `..`; None where that is outside of the repository."""
    parts: list[str] = []
    for part in f"{folder}/{path}".split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def ancestors(folder: str) -> Iterator[str]:
    """The folder, the one it is in, and so on; last "", the repository's root."""
    while folder:
        yield folder
        folder = folder_of(folder)
    yield ""


def nearness(path: str, other: str) -> int:
    """How many folders two paths have in common, from the root on."""
    count = 0
    for one, two in zip(path.split("/")[:-1], other.split("/")[:-1], strict=False):
        if one != two:
            break
        count += 1
    return count


def inside(folder: str, path: str) -> bool:
    return not folder or path.startswith(f"{folder}/")
