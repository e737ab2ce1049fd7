"""Imports that are paths: C, C++ and CUDA, JavaScript and TypeScript."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from data_prep.repositories.files import File, ancestors, folder_of, inside, join, nearness

# Headers of the C and C++ standard libraries and of POSIX: `<x>` means these, even where a repository has its own.
_STANDARD_NAMES = """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
    stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype unistd fcntl dirent
    pthread semaphore poll netdb dlfcn glob grp pwd sched strings syslog termios utime wordexp regex malloc memory
    alloca windows
"""
_STANDARD = frozenset(f"{name}.h" for name in _STANDARD_NAMES.split())
_SUFFIXES = ("", ".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".json")
_COMPILED = {".js": (".ts", ".tsx", ".d.ts"), ".jsx": (".tsx",), ".mjs": (".mts",), ".cjs": (".cts",)}


def resolve_c(files: Sequence[File], _repository: str) -> list[set[int]]:
    """`"x/y.h"`: beside the file, else as `<x/y.h>`: under any folder that ends so.

    A compiler is told where to look, a repository seldom says it; so every folder under which `x/y.h` is found counts,
    and of several the one that shares most folders with the including file, then the shortest path.
    """
    where = {file.path: index for index, file in enumerate(files)}
    by_name: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        by_name.setdefault(file.path.rpartition("/")[2], []).append(index)

    @functools.cache
    def included(folder: str, name: str) -> int | None:
        target = name.strip('"<>').strip()
        beside = join(folder, target)
        if name.startswith('"') and beside in where:
            return where[beside]
        if name.startswith("<") and (target in _STANDARD or not ("." in target or "/" in target)):
            return None
        plain = join("", "/".join(part for part in target.split("/") if part != ".."))
        candidates = [
            index
            for index in by_name.get(plain.rpartition("/")[2], ())
            if files[index].path == plain or files[index].path.endswith(f"/{plain}")
        ]
        here = f"{folder}/" if folder else ""
        order = {i: (-nearness(files[i].path, here), len(files[i].path), files[i].path) for i in candidates}
        return min(candidates, key=order.__getitem__, default=None)

    return [{included(folder_of(file.path), name) for name in file.imports} - {None} for file in files]


def resolve_javascript(files: Sequence[File], _repository: str) -> list[set[int]]:
    """Relative paths, with the extensions and index files that may be left out; `paths` and `baseUrl` of the nearest
    tsconfig.json or jsconfig.json; packages of the repository by their names (workspaces)."""
    where = {file.path: index for index, file in enumerate(files)}
    projects = _projects(files)
    packages = {}
    for file in files:
        about = dict(entry.split(" ", 1) for entry in file.declares if " " in entry)
        if "name" in about:
            packages[about["name"]] = (folder_of(file.path), [about.get("module"), about.get("main")])
    found = []
    for file in files:
        needs: set[int] = set()
        if file.language != "JSON":
            for specifier in file.imports:
                candidates = _candidates(file.path, specifier.split("?")[0], projects, packages)
                needs.update(index for index in [_first(candidates, where)] if index is not None)
        found.append(needs)
    return found


def _first(candidates: Iterable[str | None], where: Mapping[str, int]) -> int | None:
    """The file that one of the paths, as a specifier gives them, stands for."""
    for path in candidates:
        if path is None:
            continue
        ways = [path + suffix for suffix in _SUFFIXES] if path else []
        for compiled, sources in _COMPILED.items():
            if path.endswith(compiled):
                ways += [path.removesuffix(compiled) + source for source in sources]
        ways += [join(path, f"index{suffix}") for suffix in _SUFFIXES[1:]]
        for way in ways:
            if way in where:
                return where[way]
    return None


def _candidates(
    path: str, specifier: str, projects: Mapping[str, "_Project"], packages: Mapping[str, tuple[str, list[str | None]]]
) -> Iterator[str | None]:
    folder = folder_of(path)
    if specifier.startswith(".") or not specifier:
        yield join(folder, specifier)
        return
    project = next((projects[above] for above in ancestors(folder) if above in projects), None)
    if project:
        yield from project.targets(specifier)
    parts = specifier.split("/")
    for length in (2, 1):
        name, rest = "/".join(parts[:length]), "/".join(parts[length:])
        if name in packages:
            root, mains = packages[name]
            ways = [rest, f"src/{rest}"] if rest else [*filter(None, mains), "src/index", "index", "src"]
            yield from (join(root, way) for way in ways)


class _Project:
    """What a tsconfig.json says of where modules are."""

    def __init__(self, folder: str, settings: Sequence[str]) -> None:
        given = [entry.partition(" ")[::2] for entry in settings]
        base = next((value for key, value in given if key == "baseUrl"), None)
        self.base = None if base is None else join(folder, base)
        root = folder if self.base is None else self.base
        self.paths = []
        for key, value in given:
            pattern, _, target = value.partition("=")
            if key == "paths":
                self.paths.append((pattern, root, target))
        self.paths.sort(key=lambda entry: -len(entry[0].partition("*")[0]))  # the longest prefix is the one that holds

    def targets(self, specifier: str) -> Iterator[str | None]:
        for pattern, root, target in self.paths:
            prefix, star, suffix = pattern.partition("*")
            if specifier == pattern:
                yield join(root, target)
            elif star and specifier.startswith(prefix) and specifier.endswith(suffix):
                yield join(root, target.replace("*", specifier[len(prefix) : len(specifier) - len(suffix)]))
        if self.base is not None:
            yield join(self.base, specifier)


def _projects(files: Sequence[File]) -> dict[str, _Project]:
    """Folder -> what its tsconfig.json (or else jsconfig.json) says, with what it extends."""
    settings = {file.path: list(file.imports) for file in files if file.language == "JSON"}
    projects = {}
    for path in sorted(settings):
        if path.rpartition("/")[2] not in ("jsconfig.json", "tsconfig.json"):
            continue
        given, at = list(settings[path]), path
        for _ in range(8):  # a chain may go round in a circle
            parent = next(
                (entry.removeprefix("extends ") for entry in settings[at] if entry.startswith("extends ")), ""
            )
            target = join(folder_of(at), parent) if parent.startswith(".") else None
            at = next((way for way in (target, f"{target}.json") if way in settings), "")
            if not at:
                break
            given += _seen_from(folder_of(path), folder_of(at), settings[at], given)
        projects[folder_of(path)] = _Project(folder_of(path), given)
    return projects


def _seen_from(folder: str, other: str, settings: Sequence[str], given: Sequence[str]) -> list[str]:
    """What a file in the folder `other` says, for one in `folder` that extends it and has the last word."""
    known = {entry.split(" ", 1)[0] for entry in given}
    if not inside(other, f"{folder}/") and folder != other:
        return []
    back = "/".join([".."] * (folder.count("/") + bool(folder) - other.count("/") - bool(other))) or "."
    found = []
    for key, _, value in (entry.partition(" ") for entry in settings):
        if key == "baseUrl" and key not in known:
            found.append(f"baseUrl {back}/{value}")
        elif key == "paths" and key not in known:
            pattern, _, target = value.partition("=")
            has_base = any(entry.startswith("baseUrl ") for entry in settings)
            found.append(f"paths {pattern}={target if has_base else f'{back}/{target}'}")
    return found
