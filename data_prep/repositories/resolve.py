"""The dependency graph of a repository: each file's imports resolved to files of the same repository.

Only what is there counts: an import of the standard library or of another project leads nowhere. Each family of
languages has its own rules (see `paths`, `modules`, `types` and `crates` beside this file).
"""

from collections.abc import Callable, Mapping, Sequence

from data_prep.repositories.crates import resolve_rust
from data_prep.repositories.files import File
from data_prep.repositories.modules import resolve_go, resolve_python
from data_prep.repositories.paths import resolve_c, resolve_javascript
from data_prep.repositories.types import resolve_csharp, resolve_java

Resolver = Callable[[Sequence[File], str], list[set[int]]]
_FAMILIES: Mapping[Resolver, tuple[str, ...]] = {
    resolve_python: ("Python",),
    resolve_c: ("C", "C++", "CUDA"),
    resolve_go: ("Go",),
    resolve_javascript: ("JavaScript", "TypeScript", "JSON"),
    resolve_java: ("Java",),
    resolve_csharp: ("C#",),
    resolve_rust: ("Rust",),
}
ORDERED = frozenset(language for languages in _FAMILIES.values() for language in languages) - {"JSON"}
"""Languages whose files are put in the order of their dependencies."""


def dependencies(files: Sequence[File], repository: str) -> list[list[int]]:
    """For each file the positions, ascending, of the files that it needs, itself left out.

    `repository` is its name, which stands for the package whose parts lie at its root.
    """
    found: list[list[int]] = [[] for _ in files]
    for resolver, languages in _FAMILIES.items():
        members = [index for index, file in enumerate(files) if file.language in languages]
        if len(members) < 2:
            continue
        needs = resolver([files[index] for index in members], repository)
        for position, needed in enumerate(needs):
            found[members[position]] = sorted(members[other] for other in needed if other != position)
    return found
