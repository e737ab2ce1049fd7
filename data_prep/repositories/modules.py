"""Imports that are modules in folders: Python and Go."""

from collections import Counter
from collections.abc import Iterator, Sequence

from data_prep.repositories.files import File, ancestors, folder_of, inside

# The first parts of what Go's standard library has; all other paths that Go gets from elsewhere have a dot in theirs.
_GO_NAMES = """
    archive bufio builtin bytes C cmp compress container context crypto database debug embed encoding errors expvar flag
    fmt go hash html image index io iter log maps math mime net os path plugin reflect regexp runtime slices sort
    strconv strings structs sync syscall testing text time unicode unique unsafe weak
"""
_GO_STANDARD = frozenset(_GO_NAMES.split())


def resolve_python(files: Sequence[File], repository: str) -> list[set[int]]:
    """Modules and packages, under every folder that is not itself part of a package (`src` layouts, scripts, tests).

    `from a import b` is the module a.b where there is one, else a; packages above it are not counted, because nearly
    everything would then need everything. Where the root of the repository is a package, it has the repository's name.
    """
    tops = _Tops(files, repository)
    found = []
    for path, file in zip(tops.paths, files, strict=True):
        needs: set[int] = set()
        for entry in file.imports:
            module, _, name = entry.partition("|")
            needs.update(tops.modules(path, module, name))
        found.append(needs)
    return found


class _Tops:
    """Where modules of Python are found."""

    def __init__(self, files: Sequence[File], repository: str) -> None:
        at_root = any(file.path in ("__init__.py", "__init__.pyi") for file in files)
        name = repository.rstrip("/").rpartition("/")[2].removesuffix(".git").replace("-", "_")
        self.paths = [f"{name}/{file.path}" if at_root else file.path for file in files]
        self.where: dict[str, int] = {}
        folders: set[str] = set()
        for index, path in sorted(enumerate(self.paths), key=lambda entry: (entry[1].endswith(".pyi"), entry[1])):
            stem, _, extension = path.rpartition(".")
            if extension in ("py", "pyi", "pyx"):
                self.where.setdefault(stem.removesuffix("/__init__"), index)
                folders.update(ancestors(folder_of(path)))
        packages = {folder_of(path) for path in self.paths if path.endswith(("/__init__.py", "/__init__.pyi"))}
        self.roots: dict[str, list[str]] = {}  # first part of a module -> folders that hold it
        for place in {*self.where, *folders} - {""}:
            if folder_of(place) not in packages:
                self.roots.setdefault(place.rpartition("/")[2], []).append(folder_of(place))

    def modules(self, path: str, module: str, name: str) -> Iterator[int]:
        plain = module.lstrip(".")
        level = len(module) - len(plain)
        parts = plain.split(".") if plain else []
        if level:
            folder = path.split("/")[:-1]
            if level - 1 > len(folder):
                return
            bases = ["/".join([*folder[: len(folder) - level + 1], *parts])]
        else:
            bases = [f"{root}/{'/'.join(parts)}".lstrip("/") for root in self._roots(path, parts[0])]
        for base in bases:
            for way in (f"{base}/{name}", base) if name else (base,):
                if way in self.where:
                    yield self.where[way]
                    return

    def _roots(self, path: str, first: str) -> list[str]:
        """Folders where a module may begin: those above the file, nearest first, then the others, shortest first."""
        roots = self.roots.get(first, ())
        return sorted(
            roots, key=lambda root: (not inside(root, path), -len(root) if inside(root, path) else len(root), root)
        )


def resolve_go(files: Sequence[File], _repository: str) -> list[set[int]]:
    """An import is a folder of the repository after the path of its module.

    go.mod is no document, so module paths are inferred: (path, folder) is a module where imports under that path are
    folders below that folder; the module that explains most imports wins for each of them.
    """
    folders: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        if not file.path.endswith("_test.go"):
            folders.setdefault(folder_of(file.path), []).append(index)
    ends: dict[str, list[str]] = {}  # last part of a folder -> folders
    for folder in folders:
        ends.setdefault(folder.rpartition("/")[2], []).append(folder)
    paths = {path for file in files for path in file.imports if path.split("/")[0] not in _GO_STANDARD}
    ways = {path: list(_go_modules(path, ends)) for path in paths}
    explained = Counter(module for found in ways.values() for module, _ in found)
    target = {}
    for path, found in ways.items():
        if found:
            target[path] = max(found, key=lambda way: (explained[way[0]], -len(way[0][1]), way))[1]
    roots: dict[str, str] = {}  # path of a module -> its folder
    for path, root in sorted(explained, key=lambda module: explained[module]):
        roots[path] = root
    for path in paths:
        if path not in target and roots.get(path) in folders:
            target[path] = roots[path]
    return [{index for path in file.imports if path in target for index in folders[target[path]]} for file in files]


def _go_modules(path: str, ends: dict[str, list[str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """((path of a module, its folder), folder that is imported) of every folder that ends as an import's path does."""
    parts = path.split("/")
    for folder in ends.get(parts[-1], ()):
        own = folder.split("/")
        common = 1
        while common < min(len(parts) - 1, len(own)) and parts[-common - 1] == own[-common - 1]:
            common += 1
        for length in range(1, common + 1):
            if length < len(parts):
                yield ("/".join(parts[:-length]), "/".join(own[:-length])), folder
