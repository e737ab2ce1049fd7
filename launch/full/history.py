"""Which Git history commits are taken from, and a copy of its newest part in the run folder.

The one that the user names; else that of the checkout which this program is installed from; else, because a history
cannot be invented, one that is made of the installed packages file by file, and said to be.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pygit2

import launch
from megatron_seed.errors import SeedError

LEAST_COMMITS = 30
"""A checkout with fewer, such as a shallow one, has no history to speak of; ours."""
_FIRST_DAY = 1_700_000_000  # of a history that is made; seconds since 1970
_AUTHOR = ("made by megatron-seed", "made@example.invalid")


def take_history(into: Path, given: Path | None, most: int, packages: Path) -> dict[str, Any]:
    """Writes the bare repository `into` with at most `most` generations of commits.

    Returns kind (given, checkout or made), path it came from, head, commits, and whether older ones were left behind
    (`shortened`). Raises SeedError where `given` is no repository or has no commit.
    """
    path, kind = (given, "given") if given else (_checkout(), "checkout")
    work = into.with_name(f".{into.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    if path is None:
        commits = _make(work, packages, most)
        kind, path, shortened = "made", packages, False
    else:
        shortened = _copy(path, work, most)
        commits = count_commits(work)
    shutil.rmtree(into, ignore_errors=True)
    work.rename(into)
    return {"kind": kind, "path": str(path), "head": head_of(into), "commits": commits, "shortened": shortened}


def count_commits(path: Path, most: int | None = None) -> int:
    """Commits that HEAD reaches, counted up to `most`. Raises SeedError for what is no repository with a commit."""
    with _named(path):
        repository = pygit2.Repository(str(path))
        return sum(1 for _ in itertools.islice(repository.walk(repository.head.target), most))


def head_of(path: Path) -> str:
    """Id of the newest commit. Raises SeedError for what is no repository with a commit."""
    with _named(path):
        return str(pygit2.Repository(str(path)).head.target)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pygit2.GitError, KeyError) as error:
        raise SeedError(f"--history {path}: no Git repository with a commit: {error}") from None


def _checkout() -> Path | None:
    path = Path(launch.__file__).resolve().parent.parent
    try:
        return path if (path / ".git").exists() and count_commits(path, LEAST_COMMITS) >= LEAST_COMMITS else None
    except SeedError:
        return None


def _copy(path: Path, into: Path, most: int) -> bool:
    """Clones what HEAD reaches; whether that is not all there is."""
    shortened = count_commits(path, most + 1) > most
    command = ["git", "clone", "--quiet", "--bare", "--single-branch", "--no-tags"]
    depth = ["--depth", str(most)] if shortened else []
    try:
        subprocess.run([*command, *depth, path.resolve().as_uri(), str(into)], check=True, capture_output=True)
    except OSError as error:
        raise SeedError(f"git is needed to copy the history of {path}: {error}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["no word of why"]
        raise SeedError(f"--history {path} cannot be cloned: {said[-1]}") from None
    return shortened


def _make(into: Path, packages: Path, most: int) -> int:
    """A repository to which each commit adds one Python file that says in a docstring what it is."""
    repository = pygit2.init_repository(str(into), bare=True)
    head, made = [], 0
    index = pygit2.Index()
    for path in sorted(packages.rglob("*.py")):
        if made >= most:
            break
        purpose = _purpose(path)
        if not purpose:
            continue
        name = str(path.relative_to(packages))
        index.add(pygit2.IndexEntry(name, repository.create_blob(path.read_bytes()), pygit2.enums.FileMode.BLOB))
        tree = index.write_tree(repository)
        author = pygit2.Signature(*_AUTHOR, _FIRST_DAY + 86_400 * made, 0)
        head = [repository.create_commit("HEAD", author, author, f"Add {name}\n\n{purpose}\n", tree, head)]
        made += 1
    if not made:
        raise SeedError("no package has documented Python files to make a history of; give --history")
    return made


def _purpose(path: Path) -> str:
    try:
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").strip().partition("\n")[0]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ""
