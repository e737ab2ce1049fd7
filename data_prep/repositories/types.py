"""Imports that are names of types: Java and C#."""

from collections.abc import Iterator, Mapping, Sequence

from data_prep.repositories.files import File


def resolve_java(files: Sequence[File], _repository: str) -> list[set[int]]:
    """Types that are imported, and types that are named and lie in the same package or one imported with `*`."""
    types = _declared(files)
    found = []
    for file in files:
        package = next((n.removeprefix("package ") for n in file.names if n.startswith("package ")), "")
        used = [name for name in file.names if not name.startswith("package ")]
        needs: set[int] = set()
        seen = {package}
        for entry in file.imports:
            if entry.endswith(".*"):
                seen.add(entry.removesuffix(".*"))
            needs.update(_type_in(entry.removesuffix(".*"), types))
        single = {entry.rpartition(".")[2] for entry in file.imports}
        for space in seen:
            for name in used:
                if name not in single or space == "":
                    needs.update(types.get(f"{space}.{name}" if space else name, ()))
        found.append(needs)
    return found


def _declared(files: Sequence[File]) -> dict[str, list[int]]:
    types: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        for name in file.declares:
            if not name.endswith("."):
                types.setdefault(name, []).append(index)
    return types


def _type_in(name: str, types: Mapping[str, Sequence[int]]) -> Iterator[int]:
    """Files of the type that a dotted name begins with: `a.B` for a.B, a.B.Inner and a.B.method."""
    while name:
        if name in types:
            yield from types[name]
            return
        name = name.rpartition(".")[0]


def resolve_csharp(files: Sequence[File], _repository: str) -> list[set[int]]:
    """Types that are named and lie in a namespace that can be seen: the file's own, those around it, those it uses.

    A `using` names a namespace, which many files share; only the names that are used tell which of them are needed. It
    may leave out namespaces around it: within `A.B`, `using C` can be `A.B.C` or `A.C`.
    """
    types = _declared(files)
    by_name: dict[str, list[str]] = {}
    for name in types:
        by_name.setdefault(name.rpartition(".")[2], []).append(name)
    found = []
    for file in files:
        needs: set[int] = set()
        seen = {""}
        for space in (name[:-1] for name in file.declares if name.endswith(".")):
            while space:
                seen.add(space)
                space = space.rpartition(".")[0]
        around = sorted(seen)
        for entry in file.imports:
            for full in (f"{space}.{entry}" if space else entry for space in around):
                seen.add(full)
                needs.update(types.get(full, ()))
        own = set(file.declares)
        for name in file.names:
            for full in by_name.get(name, ()):
                if full.rpartition(".")[0] in seen and full not in own:
                    needs.update(types[full])
        found.append(needs)
    return found
