"""What a file says of other files: its imports, the names it uses and what it declares, read off its syntax tree.

Nothing is resolved here, because that needs to know the other files. How an import is written down:

| language | imports | names | declares |
| --- | --- | --- | --- |
| Python | `module|name`, dots in front for relative ones, name empty for `import module` and for `*` | | |
| C, C++, CUDA | `"path"` or `<path>` | | |
| Go | the path | | |
| JavaScript, TypeScript | the specifier | | |
| Java | `a.b.C` or `a.b.*` | types | `a.b.C` for each outermost type |
| C# | a namespace or a type | identifiers | `A.B.C` for each outermost type, `A.B.` for the namespace |
| Rust | `mod x`, `path x.rs`, `use a::b`, in inline modules `mod`/`use` begin with their `self::x` | | |
| JSON | of tsconfig.json: `baseUrl x`, `paths a=b`, `extends x` | | of package.json: `name x`, `main x` |
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from tree_sitter import Node, Query, QueryCursor, Tree
from tree_sitter_language_pack import get_language

from data_prep.annotators.syntax import parser

Captures = Mapping[str, list[Node]]


class Found(NamedTuple):
    """What one file says, each sorted and without repetitions."""

    imports: list[str]
    names: list[str]
    declares: list[str]


def extract(language: str, path: str, text: str, tree: Tree | None = None) -> Found | None:
    """What a file says; None where nothing is known of its language. Broken files give what can be read of them.

    `tree`: the file's own, where it was parsed already.
    """
    if language == "JSON":
        return _json(path, text)
    grammar = "tsx" if language == "TypeScript" and path.endswith(".tsx") else GRAMMARS.get(language)
    if grammar is None:
        return None
    tree = tree or parser(grammar).parse(text.encode("utf-8", "surrogatepass"))
    captures = QueryCursor(_query(grammar)).captures(tree.root_node)
    imports, names, declares = _READERS[grammar](captures)
    return Found(sorted(imports), sorted(names), sorted(declares))


GRAMMARS = {
    "C": "c",
    "C#": "csharp",
    "C++": "cpp",
    "CUDA": "cuda",
    "Go": "go",
    "Java": "java",
    "JavaScript": "javascript",
    "Python": "python",
    "Rust": "rust",
    "TypeScript": "typescript",
}
_INCLUDES = "(preproc_include path: [(string_literal) (system_lib_string)] @include)"
_MODULES = """
    (import_statement source: (string) @source)
    (export_statement source: (string) @source)
    (call_expression function: [(identifier) (import)] @function arguments: (arguments . (string) @called))
"""
_TYPE_KINDS = "class_declaration interface_declaration enum_declaration record_declaration"


def _each(kinds: str, pattern: str) -> str:
    return "\n".join(pattern.replace("KIND", kind) for kind in kinds.split())


_QUERIES = {
    "python": "(import_statement) @import (import_from_statement) @from",
    "c": _INCLUDES,
    "cpp": _INCLUDES,
    "cuda": _INCLUDES,
    "go": "(import_spec path: (_) @path)",
    "javascript": _MODULES,
    "typescript": _MODULES + "(import_require_clause source: (string) @source)",
    "tsx": _MODULES + "(import_require_clause source: (string) @source)",
    "java": "(package_declaration) @package (import_declaration) @import (type_identifier) @name"
    "(method_invocation object: (identifier) @name) (field_access object: (identifier) @name)"
    "(method_reference . (identifier) @name)"
    "(marker_annotation name: (identifier) @name) (annotation name: (identifier) @name)"
    + _each(f"{_TYPE_KINDS} annotation_type_declaration", "(program (KIND name: (identifier) @declares))"),
    "csharp": "(using_directive) @using (identifier) @name"
    "[(namespace_declaration) (file_scoped_namespace_declaration)] @namespace"
    + _each(f"{_TYPE_KINDS} struct_declaration delegate_declaration", "(KIND name: (identifier) @declares)"),
    "rust": "(mod_item name: (identifier) !body) @mod (use_declaration argument: (_) @use)"
    "(scoped_identifier path: [(crate) (super) (self)]) @path"
    "(scoped_type_identifier path: [(crate) (super) (self)]) @path",
}


@functools.cache
def _query(grammar: str) -> Query:
    return Query(get_language(grammar), _QUERIES[grammar])


def _text(node: Node) -> str:
    return node.text.decode("utf-8", "replace")


def _texts(captures: Captures, name: str) -> set[str]:
    return {data.decode("utf-8", "replace") for data in {node.text for node in captures.get(name, ())}}


# Python


def _python(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    imports = set()
    for statement in captures.get("import", ()):
        for child in statement.children_by_field_name("name"):
            imports.add(f"{_dotted(child)}|")
    for statement in captures.get("from", ()):
        module = statement.child_by_field_name("module_name")
        names = [_dotted(child) for child in statement.children_by_field_name("name")] or [""]
        if module is not None:
            imports |= {f"{''.join(_text(module).split())}|{name}" for name in names}
    return imports, set(), set()


def _dotted(node: Node) -> str:
    name = node.child_by_field_name("name") if node.type == "aliased_import" else node
    return "".join(_text(name).split())


# C, Go, JavaScript


def _c(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    return _texts(captures, "include"), set(), set()


def _go(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    return {text.strip('"`') for text in _texts(captures, "path")}, set(), set()


def _javascript(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    found = _texts(captures, "source")
    if (
        "called" in captures
    ):  # functions and first arguments come in the order of the file, an argument after its function
        calls = {node.parent.parent.id: node for node in captures["called"]}
        for function in captures["function"]:
            argument = calls.get(function.parent.id)
            if argument is not None and function.text in (b"require", b"import"):
                found.add(_text(argument))
    return {text.strip("'\"") for text in found}, set(), set()


# Java, C#


def _java(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    package = _words(_text(captures["package"][0]))[-1] if "package" in captures else ""
    imports = {_words(_text(node))[-1] for node in captures.get("import", ())}
    declares = {f"{package}.{name}" if package else name for name in _texts(captures, "declares")}
    return imports, _texts(captures, "name") | {f"package {package}"}, declares


def _words(statement: str) -> list[str]:
    """The words of `import static a . b . C ;`: names with their dots are one."""
    plain = re.sub(r"/\*.*?\*/|//[^\n]*|@\w+(\([^)]*\))?", " ", statement, flags=re.DOTALL)
    return re.sub(r"\s*\.\s*", ".", plain).replace(";", " ").split() or [""]


def _csharp(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    imports = {_words(_text(node).replace("=", " "))[-1].removeprefix("global::") for node in captures.get("using", ())}
    names = {name for name in _texts(captures, "name") if name[:1].isupper()}
    spaces = {node.id: _text(node.child_by_field_name("name")) for node in captures.get("namespace", ())}
    whole_file = [spaces[n.id] for n in captures.get("namespace", ()) if n.type.startswith("file")]
    declares = {f"{space}." for space in whole_file}
    for name in captures.get("declares", ()):
        around = list(_around(name.parent))
        if any(node.type.endswith(("class_declaration", "struct_declaration")) for node in around):
            continue  # a type within a type is found by the outer one
        parts = [spaces[node.id] for node in reversed(around) if node.id in spaces] or whole_file[:1]
        if parts:
            declares.add(f"{'.'.join(parts)}.")
        declares.add(".".join([*parts, _text(name)]))
    return imports, names, {"".join(text.split()) for text in declares}


def _around(node: Node) -> Iterator[Node]:
    node = node.parent
    while node is not None:
        yield node
        node = node.parent


# Rust


def _rust(captures: Captures) -> tuple[set[str], set[str], set[str]]:
    imports = set()
    for item in captures.get("mod", ()):
        inside = _inline_modules(item)
        name = _text(item.child_by_field_name("name"))
        before = item.prev_named_sibling
        given = (
            re.search(r'\bpath\s*=\s*"([^"]+)"', _text(before)) if before and before.type == "attribute_item" else None
        )
        imports.add(f"path {given[1]}" if given else f"mod {inside}{name}")
    used = [(node, _without_alias(_text(node))) for node in captures.get("use", ())]
    for node in captures.get("path", ()):
        while node.parent is not None and node.parent.type in ("scoped_identifier", "scoped_type_identifier"):
            node = node.parent
        used.append((node, _text(node)))
    for node, text in used:
        for path in _use_paths("".join(text.split())):
            relative = path.split("::", 1)[0] in ("self", "super")
            imports.add(f"use {_inline_modules(node) if relative else ''}{path}")
    return imports, set(), set()


def _inline_modules(node: Node) -> str:
    """`self::a::` for what stands in `mod a { }`, empty outside of any."""
    names = [_text(outer.child_by_field_name("name")) for outer in _around(node) if outer.type == "mod_item"]
    return "".join(["self::", *(f"{name}::" for name in reversed(names))]) if names else ""


def _without_alias(argument: str) -> str:
    return re.sub(r"\s+as\s+\w+", "", re.sub(r"//[^\n]*|/\*.*?\*/", "", argument, flags=re.DOTALL))


def _use_paths(argument: str) -> Iterator[str]:
    """`a::{b, c::{d}}` as a::b, a::c::d."""
    opened = argument.find("{")
    if opened < 0:
        yield argument.removesuffix("::*").removesuffix("::self")
        return
    prefix, depth, start = argument[:opened], 0, opened + 1
    for at in range(opened, len(argument)):
        depth += (argument[at] == "{") - (argument[at] == "}")
        if (argument[at] == "," and depth == 1) or depth == 0:
            if part := argument[start:at]:
                yield from (f"{prefix}{path}".removesuffix("::self").removesuffix("::*") for path in _use_paths(part))
            start = at + 1
        if depth == 0:
            return


# Settings of JavaScript projects


def _json(path: str, text: str) -> Found | None:
    name = PurePosixPath(path).name
    is_package = name == "package.json"
    if not is_package and not re.fullmatch(r"(tsconfig|jsconfig)(\.\w+)?\.json", name):
        return None
    try:
        values = json.loads(text)
    except ValueError:
        try:
            values = json.loads(_plain_json(text))
        except ValueError:
            return Found([], [], [])
    if not isinstance(values, dict):
        return Found([], [], [])
    if is_package:
        given = [(key, values.get(key)) for key in ("name", "main", "module")]
        return Found([], [], [f"{key} {value}" for key, value in given if isinstance(value, str)])
    options = values.get("compilerOptions")
    options = options if isinstance(options, dict) else {}
    found = [f"extends {values['extends']}"] if isinstance(values.get("extends"), str) else []
    if isinstance(options.get("baseUrl"), str):
        found.append(f"baseUrl {options['baseUrl']}")
    paths = options.get("paths")
    for pattern, targets in paths.items() if isinstance(paths, dict) else ():
        found += [f"paths {pattern}={target}" for target in targets if isinstance(target, str)]
    return Found(sorted(found), [], [])


def _plain_json(text: str) -> str:
    """JSON with comments and trailing commas, as TypeScript allows them, without these."""
    kept = re.sub(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', lambda match: match[1] or "", text, flags=re.DOTALL)
    return re.sub(r",(\s*[}\]])", r"\1", kept)


_READERS: Mapping[str, Callable[[Captures], tuple[set[str], set[str], set[str]]]] = {
    "python": _python,
    "c": _c,
    "cpp": _c,
    "cuda": _c,
    "go": _go,
    "javascript": _javascript,
    "typescript": _javascript,
    "tsx": _javascript,
    "java": _java,
    "csharp": _csharp,
    "rust": _rust,
}
