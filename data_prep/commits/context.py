"""What a sample shows of the repository before the commit, besides ranked files: its README and its tree."""

import functools
import re

import pygit2
from pygit2.enums import FileMode

from data_prep.commits.changes import LeftOut, path_of, text_of

_README = re.compile(r"readme(\.(md|markdown|rst|txt|adoc|org))?", re.IGNORECASE)
_README_BYTES = 1 << 20


class Snapshots:
    """Snapshots of one repository. What they say of a tree or a README is kept while they follow each other."""

    def __init__(self, repository: pygit2.Repository) -> None:
        self._repository = repository
        self._listing = functools.lru_cache(maxsize=4096)(self._list)

    def readme(self, tree: pygit2.Tree) -> tuple[str, str] | None:
        """(path, text) of the README at the root; of several the first: .md before others, then by name."""
        found = [
            (not name.lower().endswith(".md"), name, oid)
            for name, is_folder, oid in self._listing(tree.id)
            if not is_folder and _README.fullmatch(name)
        ]
        for _, name, oid in sorted(found, key=lambda entry: entry[:2]):
            text = text_of(self._repository, oid, _README_BYTES)
            if not isinstance(text, LeftOut) and text.strip():
                return name, text
        return None

    def tree(self, tree: pygit2.Tree, entries: int) -> str:
        """A line for each file and folder, indented by its depth, at most `entries` of them.

        Level by level: a folder whose entries do not all fit says how many it has instead.
        """
        opened: dict[str, list[tuple[str, bool, pygit2.Oid]]] = {}
        waiting, left = [("", tree.id)], entries
        while waiting:
            deeper = []
            for folder, oid in waiting:
                children = self._listing(oid)
                if folder and len(children) > left:
                    continue
                opened[folder] = children[:left]
                left -= len(opened[folder])
                deeper += [(f"{folder}{name}/", child) for name, is_folder, child in opened[folder] if is_folder]
            waiting = deeper
        lines: list[str] = []
        self._write(lines, "", "", opened)
        more = len(self._listing(tree.id)) - len(opened[""])
        return "".join([*lines, f"({more} more)\n" if more else ""])

    def _write(self, lines: list[str], folder: str, indent: str, opened: dict[str, list]) -> None:
        for name, is_folder, oid in opened[folder]:
            path = f"{folder}{name}/"
            if not is_folder:
                lines.append(f"{indent}{name}\n")
            elif path in opened:
                lines.append(f"{indent}{name}/\n")
                self._write(lines, path, indent + "  ", opened)
            else:
                lines.append(f"{indent}{name}/ ({len(self._listing(oid))})\n")

    def _list(self, oid: pygit2.Oid) -> list[tuple[str, bool, pygit2.Oid]]:
        """(name, is a folder, id) by name; links, submodules and names that are no text are not shown."""
        found = []
        for child in self._repository[oid]:
            name = path_of(child.raw_name)
            kind = child.type_str
            if name is not None and (kind == "tree" or (kind == "blob" and child.filemode != FileMode.LINK)):
                found.append((name, kind == "tree", child.id))
        return sorted(found, key=lambda entry: entry[:2])
