"""Files put one after the other into strings, each after a line that says which it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.repositories.files import File
from data_prep.repositories.order import component_of, cycles, in_order, parts_under
from data_prep.repositories.resolve import ORDERED, dependencies
from data_prep.repositories.settings import RepositorySettings

# What begins (and ends) a comment of one line; "#" for all others.
_SLASHES = """
    ANTLR Bluespec C C# C++ CUDA Dart F# GLSL Go Groovy Java JavaScript Kotlin PHP Pascal Rust Scala Solidity Stan Swift
    SystemVerilog Thrift TypeScript Verilog Zig
"""
_COMMENTS = {
    **dict.fromkeys([*_SLASHES.split(), "Protocol Buffer"], ("//", "")),
    **dict.fromkeys(
        ["SQL", "Haskell", "Lua", "Elm", "Ada", "VHDL", "Agda", "Idris", "Lean", "AppleScript"], ("--", "")
    ),
    **dict.fromkeys(["TeX", "MATLAB", "Erlang", "Prolog"], ("%", "")),
    **dict.fromkeys(["Clojure", "Scheme", "Racket", "Emacs Lisp", "Common Lisp"], (";;", "")),
    **dict.fromkeys(["HTML", "Markdown", "RMarkdown", "XSLT"], ("<!--", " -->")),
    **dict.fromkeys(["CSS", "Yacc", "SAS", "Augeas"], ("/*", " */")),
    **dict.fromkeys(["OCaml", "Standard ML", "Mathematica", "Isabelle"], ("(*", " *)")),
    "Java Server Pages": ("<%--", " --%>"),
    "Visual Basic": ("'", ""),
    "Fortran": ("!", ""),
    "Batchfile": ("REM", ""),
    "reStructuredText": ("..", ""),
}


@dataclass(frozen=True)
class Member:
    """A file in a string."""

    index: int
    """Of the repository's files."""
    offset_bytes: int
    """Where its text begins in the string, after its header."""
    needs: tuple[int, ...]
    """Of the repository's files, those that it imports."""
    in_cycle: bool
    """Whether it imports itself through others."""


@dataclass(frozen=True)
class Part:
    """One string: a whole repository or a subgraph of it."""

    text: str
    members: tuple[Member, ...]


@dataclass
class Imports:
    """Imports within a repository, by where the file that is needed stands."""

    backwards: int = 0
    """Before the one that needs it, in the same string."""
    forwards: int = 0
    """After it, although they are in no cycle. The method leaves none."""
    in_cycles: int = 0
    other_part: int = 0
    """In another string."""


def header_of(settings: RepositorySettings, repository: str, file: File) -> str:
    """The line that stands before a file, without its end."""
    path = " ".join(file.path.splitlines()) or file.path
    said = settings.header.format(path=path, repository=repository, language=file.language)
    if not settings.comment:
        return said
    begins, ends = _COMMENTS.get(file.language, ("#", ""))
    return f"{begins} {said}{ends}"


def assemble(
    files: Sequence[File],
    texts: Sequence[str],
    name: str,
    key: str,
    settings: RepositorySettings,
    count_tokens: Callable[[Sequence[str]], Sequence[int]],
) -> tuple[list[Part], Imports]:
    """The strings of one repository. `key` names it for good: the order where nothing decides follows from it."""
    needs = dependencies(files, name)
    order = in_order(files, needs, ORDERED, f"{settings.seed}\0{key}")
    pieces = [f"{header_of(settings, name, file)}\n{text}" for file, text in zip(files, texts, strict=True)]
    pieces = [piece if piece.endswith("\n") else f"{piece}\n" for piece in pieces]
    sizes = list(count_tokens(pieces))
    cut = parts_under(order, sizes, needs, settings.max_tokens)
    groups = cycles(needs, order)
    component = component_of(groups)
    looped = {index for group in groups if len(group) > 1 for index in group}
    parts = []
    for indices in cut:
        members, at = [], 0
        for index in indices:
            header_bytes = len(f"{header_of(settings, name, files[index])}\n".encode())
            members.append(Member(index, at + header_bytes, tuple(needs[index]), index in looped))
            at += len(pieces[index].encode()) + 1
        parts.append(Part("\n".join(pieces[index] for index in indices), tuple(members)))
    return parts, _counted(cut, needs, component)


def _counted(cut: Sequence[Sequence[int]], needs: Sequence[Sequence[int]], component: dict[int, int]) -> Imports:
    place = {index: (part, at) for part, indices in enumerate(cut) for at, index in enumerate(indices)}
    counts = Imports()
    for index, others in enumerate(needs):
        for other in others:
            if place[index][0] != place[other][0]:
                counts.other_part += 1
            elif component[index] == component[other]:
                counts.in_cycles += 1
            elif place[other] < place[index]:
                counts.backwards += 1
            else:
                counts.forwards += 1
    return counts
