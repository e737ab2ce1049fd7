"""Structure: comments, docstrings, definitions and packages, against Python's own parser and on planted files."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotators.base import BUILT_IN, AnnotatorSpec
from data_prep.annotators.structure import _DEFINITIONS, _query, look

LIBRARY = Path(ast.__file__).parent


@pytest.mark.parametrize("name", ["argparse", "ast", "bisect", "dataclasses", "heapq", "json/decoder", "turtle"])
def test_python_is_counted_as_pythons_own_parser_counts_it(name):
    text = (LIBRARY / f"{name}.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    named = functions + classes
    documented = sum(ast.get_docstring(node, clean=False) is not None for node in named)
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    found = look("Python", f"{name}.py", text)
    assert (found["functions"], found["classes"]) == (len(functions), len(classes))
    assert found["docstring_share"] == documented / len(named)
    assert found["packages"] == sorted({module.partition(".")[0] for module in modules} - {"__future__"})


@pytest.mark.parametrize("name", ["heapq", "turtle"])
def test_comments_and_docstrings_are_what_the_tokenizer_and_the_parser_find(name):
    text = (LIBRARY / f"{name}.py").read_text(encoding="utf-8")
    lines = text.encode().split(b"\n")
    covered = sum(
        len(token.string.encode())
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            string = node.body[0].value
            inside = lines[string.lineno - 1 : string.end_lineno]
            inside[-1] = inside[-1][: string.end_col_offset]
            inside[0] = inside[0][string.col_offset :]
            covered += len(b"\n".join(inside))
    assert look("Python", "x.py", text)["comment_share"] == pytest.approx(covered / len(text.encode()))


FILES = [
    ("C", "#include <stdio.h>\n#include <sys/types.h>\n#include \"own.h\"\n/* Adds. */\nint add(int a) { return a; }\n"
     "struct point;\nstruct pair { int a; };\n", (1, 1, 0.5, ["stdio.h", "sys"])),
    ("C++", "// A pair.\ntemplate <class T>\nclass Pair { T a; };\nvoid f() {}\n", (1, 1, 0.5, [])),
    ("Go", 'package x\nimport (\n"net/http"\n"github.com/a/b/c"\n)\n// F is one.\nfunc F() {}\n'
     "type T struct { a int }\n",
     (1, 1, 0.5, ["github.com/a/b", "net/http"])),
    ("JavaScript", "import a from '@s/p/x'; const fs = require('node:fs'); import './own';\n/** Adds. */\n"
     "export function add(a) { return a }\nconst g = () => 1\nclass C {}\n", (2, 1, 0.5, ["@s/p", "fs"])),
    ("TypeScript", "import { x } from 'lodash/fp'\n// shape\ninterface Shape { a: number }\n",
     (0, 1, 1.0, ["lodash"])),
    ("Java", "import java.util.List;\nimport org.a.b.C;\n/** A. */\n@Deprecated\n"
     "class A {\n  int f() { return 1; }\n}\n",
     (1, 1, 0.5, ["java.util", "org.a"])),
    ("Rust", "use serde::de;\nuse crate::own;\n/// Adds.\n#[inline]\nfn add() {}\nfn other() {}\n",
     (2, 0, 0.5, ["serde"])),
    ("C#", "using System.Text;\n/// <summary>A</summary>\n[Serializable]\nclass A { void F() {} }\n",
     (1, 1, 0.5, ["System"])),
    ("Ruby", "# Doc.\nclass A\n  # Says it.\n  def f\n  end\nend\n", (1, 1, 1.0, None)),
    ("Shell", "x=1 # not of f\nf() { :; }\n", (1, 0, 0.0, None)),
    ("YAML", "# only a comment\na: 1\n", (None, None, None, None)),
    ("Markdown", "# Title\n", (None, None, None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "expected"), FILES, ids=[row[0] for row in FILES])
def test_planted_files(language, text, expected):
    found = look(language, "file.x", text)
    assert tuple(map(found.get, ("functions", "classes", "docstring_share", "packages"))) == expected
    assert ("comment_share" in found) == (language != "Markdown")


@pytest.mark.parametrize("grammar", sorted(_DEFINITIONS))
def test_each_grammar_knows_the_kinds_that_are_looked_for(grammar):
    assert _query(grammar).capture_count == (2 if grammar in ("bash", "lua", "r") else 3)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=300), st.sampled_from(["Python", "C++", "Rust", "JavaScript", "HTML"]))
def test_any_text_has_shares_between_0_and_1(text, language):
    found = look(language, "x", text)
    assert 0 <= found["comment_share"] <= 1
    assert 0 <= (found.get("docstring_share") or 0) <= 1


@pytest.mark.parametrize("text", ["", "\ud800", "\0" * 50, "(" * 5_000, "/*" * 20_000, "// \n" * 50_000])
def test_hostile_files(text):
    assert 0 <= look("C", "x.c", text)["comment_share"] <= 1


def test_it_is_built_in():
    assert "structure" in BUILT_IN
    answers = (
        AnnotatorSpec.of("structure").load().annotate([{"language": "Python", "path": "a", "text": "import os\n"}])
    )
    assert answers["packages"] == [["os"]] and answers["docstring_share"] == [None]
