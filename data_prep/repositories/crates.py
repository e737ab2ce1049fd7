"""Imports of Rust: modules of a crate, and crates of the same repository."""

from collections.abc import Mapping, Sequence

from data_prep.repositories.files import File, ancestors, folder_of, join

_ROOT_FILES = ("lib.rs", "main.rs")


def resolve_rust(files: Sequence[File], _repository: str) -> list[set[int]]:
    """`mod x;` needs the file of x; a path needs the file of the innermost module that it names.

    A crate begins at lib.rs or main.rs, or at a file of src/bin, tests, examples or benches. Another crate of the
    repository is known by the name of its folder (Cargo.toml is no document).
    """
    where = {file.path: index for index, file in enumerate(files)}
    crates = {}
    for path in where:
        if path.rpartition("/")[2] == "lib.rs":
            folder = folder_of(path)
            package = folder.removesuffix("/src").removesuffix("src") if folder.endswith("src") else folder
            crates[package.rpartition("/")[2].replace("-", "_")] = folder
    return [_needs(file, where, crates) for file in files]


def _needs(file: File, where: Mapping[str, int], crates: Mapping[str, str]) -> set[int]:
    root, module = _place(file.path, where)
    needs: set[int | None] = set()
    for entry in file.imports:
        kind, _, rest = entry.partition(" ")
        if kind == "path":
            needs.add(where.get(join(folder_of(file.path), rest) or ""))
            continue
        parts = rest.split("::")
        if kind == "mod":
            parts = ["self", *(parts[1:] if parts[0] == "self" else parts)]
        needs.add(_module(parts, root, module, where, crates))
    return {index for index in needs if index is not None} - {where[file.path]}


def _place(path: str, where: Mapping[str, int]) -> tuple[str, list[str]]:
    """Where the crate of a file begins (its folder), and the file's module there."""
    folder, _, name = path.rpartition("/")
    if name in _ROOT_FILES or _is_target(folder):
        return folder, []
    for above in ancestors(folder):
        if any(join(above, file) in where for file in _ROOT_FILES):
            parts = path.removesuffix(".rs").split("/")[above.count("/") + 1 if above else 0 :]
            return above, parts[:-1] if parts[-1] == "mod" else parts
    return folder, [name.removesuffix(".rs")]


def _is_target(folder: str) -> bool:
    return folder.rpartition("/")[2] in ("bin", "tests", "examples", "benches")


def _module(
    parts: list[str], root: str, module: Sequence[str], where: Mapping[str, int], crates: Mapping[str, str]
) -> int | None:
    """The file of the innermost module that a path names, if it is in the repository."""
    if parts[0] == "crate":
        at, rest = [], parts[1:]
    elif parts[0] in ("self", "super"):
        at, rest = list(module), parts
        while rest and rest[0] in ("self", "super"):
            if rest[0] == "super":
                at = at[:-1]
            rest = rest[1:]
    else:  # a module below this one, or a crate
        below = _file(root, [*module, parts[0]], where)
        if below is not None:
            at, rest = list(module), parts
        elif parts[0] in crates:
            root, at, rest = crates[parts[0]], [], parts[1:]
        else:
            return None
    depth = len(at)
    full = [*at]
    for part in rest:  # `super` may stand after modules that are inline
        full = full[:-1] if part == "super" else [*full, part]
    for length in range(len(full), min(depth, len(full)) - 1, -1):
        found = _file(root, full[:length], where)
        if found is not None:
            return found
    return None


def _file(root: str, module: Sequence[str], where: Mapping[str, int]) -> int | None:
    names = [f"{'/'.join(module)}.rs", "/".join([*module, "mod.rs"])] if module else _ROOT_FILES
    for name in names:
        found = where.get(join(root, name) or "")
        if found is not None:
            return found
    return None
