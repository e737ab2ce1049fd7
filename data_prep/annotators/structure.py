"""What a file is made of: comments, functions, classes, and the packages it imports, read off its syntax tree.

Seeds of a high-quality subset are chosen by such numbers beside the score (Seed-Coder report, section 2.2.4).
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from tree_sitter import Node, Query, QueryCursor
from tree_sitter_language_pack import get_language

from data_prep.annotators.syntax import ParsingAnnotator, grammar_of, parser, table
from data_prep.repositories.extract import GRAMMARS as IMPORTING
from data_prep.repositories.extract import extract

_COMMENTS = frozenset(
    {
        "comment",
        "line_comment",
        "block_comment",
        "multiline_comment",
        "documentation_comment",
        "bracket_comment",
        "html_comment",
        "js_comment",
        "preproc_comment",
        "sexp_comment",
        "comment_environment",
        "doc_comment",
        "container_doc_comment",
        "marginalia",
        "pod",
        "haddock",
        "Comment",
    }
)
# Kinds of nodes that define a function or a class, by grammar: (functions, classes).
_DEFINITIONS = {
    "bash": ("function_definition", ""),
    "c": ("function_definition", "struct_specifier enum_specifier union_specifier"),
    "csharp": (
        "method_declaration constructor_declaration local_function_statement",
        "class_declaration interface_declaration struct_declaration record_declaration enum_declaration",
    ),
    "dart": ("function_signature", "class_definition enum_declaration mixin_declaration extension_declaration"),
    "go": ("function_declaration method_declaration", "struct_type interface_type"),
    "java": (
        "method_declaration constructor_declaration compact_constructor_declaration",
        "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration",
    ),
    "javascript": (
        "function_declaration generator_function_declaration method_definition arrow_function function_expression",
        "class_declaration class",
    ),
    "julia": ("function_definition", "struct_definition"),
    "kotlin": ("function_declaration", "class_declaration object_declaration"),
    "lua": ("function_declaration function_definition", ""),
    "matlab": ("function_definition", "class_definition"),
    "perl": ("subroutine_declaration_statement method_declaration_statement", "class_statement"),
    "php": ("function_definition method_declaration", "class_declaration interface_declaration trait_declaration"),
    "python": ("function_definition", "class_definition"),
    "r": ("function_definition", ""),
    "ruby": ("method singleton_method", "class module"),
    "rust": ("function_item", "struct_item enum_item trait_item union_item"),
    "scala": ("function_definition", "class_definition object_definition trait_definition enum_definition"),
    "solidity": ("function_definition constructor_definition", "contract_declaration interface_declaration"),
    "swift": ("function_declaration init_declaration", "class_declaration protocol_declaration"),
}
_TYPED = "interface_declaration abstract_class_declaration enum_declaration"
for _name, _like, _more in (
    ("cpp", "c", "class_specifier"),
    ("cuda", "c", "class_specifier"),
    ("glsl", "c", ""),
    ("typescript", "javascript", _TYPED),
    ("tsx", "javascript", _TYPED),
):
    _DEFINITIONS[_name] = (_DEFINITIONS[_like][0], f"{_DEFINITIONS[_like][1]} {_more}")
_UNNAMED = frozenset({"arrow_function", "function_expression"})  # functions that need no comment of their own
_NEEDS_BODY = frozenset({"struct_specifier", "enum_specifier", "union_specifier", "class_specifier"})
# Lines that stand between a comment and what it is about.
_BETWEEN = (b"@", b"#[", b"[", b"template", b"export")
_MOST_BETWEEN = 20


class Structure(ParsingAnnotator):
    """Null where no grammar that comes with the install reads the language, or nothing is known of its definitions."""

    version = 1
    columns: ClassVar = {
        "comment_share": pa.float32(),
        "docstring_share": pa.float32(),
        "functions": pa.int32(),
        "classes": pa.int32(),
        "packages": pa.list_(pa.string()),
    }

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        rows = [look(document["language"], document["path"], document["text"]) for document in documents]
        return {name: [row.get(name) for row in rows] for name in self.columns}


def look(language: str, path: str, text: str) -> dict[str, Any]:
    """The columns of `Structure` that are known of a file.

    `comment_share`: bytes of comments and docstrings, of all bytes. `docstring_share`: functions with a name and
    classes that have a docstring (Python) or a comment that begins a line and ends on the one above, of all there are;
    null where there are none. `packages`: what is imported from outside of the file's own repository, as far as the
    import says so, each named by its first part.
    """
    row = table().get(language)
    grammar = grammar_of(row, path) if row else None
    if grammar is None:
        return {}
    data = text.encode("utf-8", "surrogatepass")
    tree = parser(grammar).parse(data)
    captures = QueryCursor(_query(grammar)).captures(tree.root_node)
    comments = captures.get("comment", [])
    found: dict[str, Any] = {}
    docstrings: list[Node] = []
    if grammar in _DEFINITIONS:
        functions = captures.get("function", [])
        classes = [node for node in captures.get("class", []) if _is_defined(node)]
        named = [node for node in functions if node.type not in _UNNAMED] + classes
        if grammar == "python":
            docstrings = [node for node in map(_docstring, named) if node is not None]
            documented = len(docstrings)
            docstrings += [node for node in [_first_string(tree.root_node)] if node is not None]
        else:
            documented = _commented(named, comments, data)
        found |= {"functions": len(functions), "classes": len(classes)}
        found["docstring_share"] = documented / len(named) if named else None
    found["comment_share"] = _covered([*comments, *docstrings]) / max(1, len(data))
    if language in IMPORTING:
        imports = extract(language, path, text, tree).imports
        found["packages"] = sorted({name for name in map(_PACKAGES[language], imports) if name})
    return found


@functools.cache
def _query(grammar: str) -> Query:
    language = get_language(grammar)
    kinds = {
        language.node_kind_for_id(index)
        for index in range(language.node_kind_count)
        if language.node_kind_is_named(index)
    }
    functions, classes = (set(names.split()) & kinds for names in _DEFINITIONS.get(grammar, ("", "")))
    wanted = [("comment", _COMMENTS & kinds), ("function", functions), ("class", classes)]
    return Query(language, "\n".join(f"({kind}) @{name}" for name, group in wanted for kind in sorted(group)))


def _is_defined(node: Node) -> bool:
    """Whether this is more than the mention of a struct."""
    return node.type not in _NEEDS_BODY or node.child_by_field_name("body") is not None


def _docstring(definition: Node) -> Node | None:
    body = definition.child_by_field_name("body")
    return None if body is None else _first_string(body)


def _first_string(block: Node) -> Node | None:
    """The string that a block of Python begins with."""
    first = next((child for child in block.named_children if child.type != "comment"), None)
    if first is not None and first.type == "expression_statement":  # in some versions of the grammar
        first = first.named_child(0)
    return first if first is not None and first.type == "string" else None


def _commented(definitions: Iterable[Node], comments: Iterable[Node], data: bytes) -> int:
    """How many definitions have a comment of its own lines right above them."""
    lines = data.split(b"\n")
    ends = set()
    for node in comments:
        start, end = node.start_point, node.end_point
        if not lines[start.row][: start.column].strip():
            ends.add(end.row if end.column else end.row - 1)
    count = 0
    for node in sorted(definitions, key=lambda node: node.start_byte):
        row = node.start_point.row - 1
        least = row - _MOST_BETWEEN
        while row > max(0, least) and row not in ends and lines[row].lstrip().startswith(_BETWEEN):
            row -= 1
        if row in ends:  # of several on one line, the first is meant
            ends.remove(row)
            count += 1
    return count


def _covered(nodes: Iterable[Node]) -> int:
    """Bytes in any of the nodes."""
    covered = reached = 0
    for start, end in sorted((node.start_byte, node.end_byte) for node in nodes):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _python_package(entry: str) -> str:
    return entry.partition("|")[0].partition(".")[0]


def _header(entry: str) -> str:
    return entry[1:-1].partition("/")[0] if entry.startswith("<") else ""


def _go_package(entry: str) -> str:
    parts = entry.split("/")
    return "/".join(parts[:3]) if "." in parts[0] else entry


def _node_package(entry: str) -> str:
    if entry.startswith((".", "/")):
        return ""
    parts = entry.removeprefix("node:").split("/")
    return "/".join(parts[:2]) if entry.startswith("@") else parts[0]


def _java_package(entry: str) -> str:
    return ".".join(entry.split(".")[:2])


def _namespace(entry: str) -> str:
    return entry.partition(".")[0]


def _crate(entry: str) -> str:
    kind, _, path = entry.partition(" ")
    first = path.removeprefix("::").partition("::")[0]
    return first if kind == "use" and first not in ("crate", "self", "super") else ""


_PACKAGES: Mapping[str, Callable[[str], str]] = {
    "C": _header,
    "C#": _namespace,
    "C++": _header,
    "CUDA": _header,
    "Go": _go_package,
    "Java": _java_package,
    "JavaScript": _node_package,
    "Python": _python_package,
    "Rust": _crate,
    "TypeScript": _node_package,
}
