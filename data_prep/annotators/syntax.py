"""Syntax: how much of a file tree-sitter could not make sense of (Seed-Coder report, section 2.2.1).

Two things are looked at. The share of bytes under error nodes: "any error, drop" would throw away much good code,
because grammars know neither macros nor every dialect, so each language has a threshold of its own. And whether the
file ends in an error: what cut-off files have in common, however small the share of that error is.

`syntax_table.json` says for each of the 89 languages which grammar reads it and what was calibrated on real files, or
why its files pass unchecked. `benchmarks/syntax.py` writes it.
"""

import functools
import json
import re
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field
from tree_sitter import Node, Parser, Tree
from tree_sitter_language_pack import get_parser

from data_prep.annotators.base import Annotator
from data_prep.languages import extension_of

TABLE = Path(__file__).with_name("syntax_table.json")
# Dialects with a grammar of their own (None: with none), by extension.
_DIALECTS = {
    ("F#", "fsi"): "fsharp_signature",
    ("Haskell", "hsc"): None,
    ("OCaml", "mli"): "ocaml_interface",
    ("OCaml", "mll"): None,
    ("OCaml", "mly"): None,
    ("TypeScript", "tsx"): "tsx",
}
# Grammars that do not know macros lose their way in good files; whether brackets are open is then read off the text.
_PREPROCESSED = frozenset({"c", "cpp", "csharp", "cuda", "glsl"})
_C_TOKENS = re.compile(
    r"""
      //(?:\\.|[^\n\\])*
    | /\*.*?\*/ | (?P<unclosed>/\*)
    | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n]){1,12}'
    | ^[ \t]*\#[ \t]*(?P<directive>\w*)(?:\\.|/(?![/*])|[^\n\\/])*
    | (?P<bracket>[(){}\[\]])
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_OPENING = ("(", "[", "{")  # and tokens such as "${" that end in one
_CLOSING = (")", "]", "}")
_LOST_SHARE = 0.5  # of the file: a longer error says nothing of where the file ends


Ending = Literal["open", "error"]


class Errors(NamedTuple):
    """What a tree says of its file."""

    share: float
    """Bytes under error nodes, of all bytes; something missing counts as one byte."""
    ending: Ending | None = None
    """"open": there are errors, and brackets or `#if`s are open at the end. "error": the last thing in the file is a
    small error (a large one says that the parser lost its way, not that the file is cut off)."""


@dataclass(frozen=True)
class LanguageRow:
    """A language's row of the table."""

    language: str
    grammar: str | None = None
    threshold: float | None = None
    """Files with a larger share of errors are broken. None: the language is not calibrated."""
    endings: tuple[Ending, ...] = ()
    """Files that end so are broken too."""
    unchecked: str | None = None
    """Why files of this language pass unchecked, where they do."""
    calibration: Mapping[str, Any] | None = None
    """Number of files, where they are from, percentile, shares found."""


@functools.cache
def table() -> Mapping[str, LanguageRow]:
    """The rows of all 89 languages."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["languages"]
    return {row["language"]: LanguageRow(**row) for row in rows}


def grammar_of(row: LanguageRow, path: str) -> str | None:
    """The name of the grammar that reads a file, None where there is none."""
    return _DIALECTS.get((row.language, extension_of(path)), row.grammar)


class ParsingAnnotator(Annotator):
    """What parses documents: some make a parser ask for gigabytes, which then costs that document, not the machine."""

    memory_gb: float = Field(2.0, gt=0)
    """GiB that the process that parses may hold."""

    def prepare(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = int(self.memory_gb * (1 << 30))
        resource.setrlimit(resource.RLIMIT_DATA, (limit if most < 0 else min(limit, most), most))


class Syntax(ParsingAnnotator):
    """Records the share of errors; `broken` is null where nothing can be said, and `unchecked` says why."""

    version = 1
    columns: ClassVar = {
        "error_share": pa.float32(),
        "ending": pa.string(),
        "broken": pa.bool_(),
        "unchecked": pa.string(),
    }

    def inputs(self) -> Any:
        return [[r.language, r.grammar, r.threshold, list(r.endings), r.unchecked] for r in table().values()]

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        rows = [self._judge(document) for document in documents]
        return {name: [row.get(name) for row in rows] for name in self.columns}

    def _judge(self, document: Mapping[str, Any]) -> dict[str, Any]:
        row = table().get(document["language"])
        grammar = grammar_of(row, document["path"]) if row else None
        if grammar is None:
            return {"unchecked": (row and row.unchecked) or "no grammar"}
        data = document["text"].encode("utf-8", "surrogatepass")
        found = errors(parser(grammar).parse(data), data, grammar)
        answer = {"error_share": found.share, "ending": found.ending, "unchecked": row.unchecked}
        if row.threshold is not None:
            answer["broken"] = found.share > row.threshold or found.ending in row.endings
        return answer


@functools.cache
def parser(grammar: str) -> Parser:
    """A parser for one of the grammars that come with the install."""
    return get_parser(grammar)


def errors(tree: Tree, data: bytes, grammar: str) -> Errors:
    """How much of `data`, of which `tree` is by `grammar`, lies under error nodes."""
    if not tree.root_node.has_error:
        return Errors(0.0)
    spans = _error_spans(tree.root_node)
    size_bytes, covered, reached = len(data), 0, 0
    for start, end in spans:
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    share = min(1.0, covered / max(1, size_bytes))
    start, end = spans[-1]
    at_end = end >= len(data.rstrip())
    if grammar in _PREPROCESSED:
        is_open = _may_be_open(data) and _is_open(_c_tokens(data.decode("utf-8", "replace")))
    else:
        is_open = at_end and _is_open(_tree_tokens(tree.root_node))
    small = end - start <= _LOST_SHARE * size_bytes
    return Errors(share, "open" if is_open else "error" if at_end and small else None)


def _error_spans(root: Node) -> list[tuple[int, int]]:
    """(start, end) of the outermost error nodes in the order of the file; a missing token is one byte long."""
    spans, stack = [], [root]
    while stack:
        node = stack.pop()
        if node.is_error or node.is_missing:
            spans.append((node.start_byte, max(node.end_byte, node.start_byte + 1)))
            continue
        wrong = [child for child in node.children if child.has_error or child.is_missing]
        stack += wrong
        if not wrong:  # what is missing has no node of its own, such as the end of a line
            spans.append((node.end_byte, node.end_byte + 1))
    return sorted(spans)


def _may_be_open(data: bytes) -> bool:
    """Whether anything is opened more often than it is closed, wherever that stands."""
    opening, closing = (sum(map(data.count, marks)) for marks in ((b"(", b"[", b"{"), (b")", b"]", b"}")))
    return opening > closing or data.count(b"#if") > data.count(b"#endif") or data.count(b"/*") > data.count(b"*/")


def _is_open(tokens: Iterable[str]) -> bool:
    """Whether more brackets, preprocessor conditions or comments are opened than closed.

    Of the branches of a condition only the last counts: each may open a bracket that one place closes.
    """
    depth, conditions = 0, []  # the depth at which each open condition began
    for token in tokens:
        if token == "/*":
            return True
        if token.startswith("#if"):
            conditions.append(depth)
        elif token.startswith("#el") and conditions:
            depth = conditions[-1]
        elif token == "#endif" and conditions:
            conditions.pop()
        else:
            depth += token.endswith(_OPENING) - (token in _CLOSING)
    return depth > 0 or bool(conditions)


def _c_tokens(text: str) -> Iterator[str]:
    """Brackets, directives and a comment that does not end, of a language of C's family."""
    for match in _C_TOKENS.finditer(text):
        kind = match.lastgroup
        if kind:
            yield f"#{match[kind]}" if kind == "directive" else match[kind]


def _tree_tokens(root: Node) -> Iterator[str]:
    """The punctuation and keywords of a tree in the order of the file, without what is missing."""
    cursor = root.walk()
    while True:
        if not cursor.goto_first_child():
            if not (cursor.node.is_named or cursor.node.is_missing):
                yield cursor.node.type
            while not cursor.goto_next_sibling():
                if not cursor.goto_parent():
                    return
