"""Languages: the 89 of the recipe, and a labelled set of names and contents."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.language_table import ALIASES, EXTENSIONS, FILE_NAMES, INTERPRETERS
from data_prep.languages import _CONTENT_RULES, LANGUAGES, UNKNOWN, by_alias, detect, may_be_code

THE_89 = """ANTLR, Ada, Agda, Alloy, AppleScript, Assembly, Augeas, AWK, Batchfile, Bluespec, C, C#, C++, CMake,
CSS, Clojure, CoffeeScript, Common Lisp, CUDA, Dart, Dockerfile, Elixir, Elm, Emacs Lisp, Erlang,
F#, Fortran, GLSL, Go, Groovy, HTML, Haskell, Idris, Isabelle, JSON, Java, Java Server Pages,
JavaScript, Julia, Kotlin, Lean, Literate Agda, Literate CoffeeScript, Literate Haskell, Lua,
Makefile, Maple, Markdown, Mathematica, MATLAB, OCaml, PHP, Pascal, Perl, PowerShell, Prolog,
Protocol Buffer, Python, R, RMarkdown, Racket, Ruby, Rust, SAS, SPARQL, SQL, Scala, Scheme, Shell,
Smalltalk, Solidity, Stan, Standard ML, Stata, Swift, SystemVerilog, Tcl, Tcsh, TeX, Thrift,
TypeScript, VHDL, Verilog, Visual Basic, XSLT, YAML, Yacc, Zig, reStructuredText"""


def test_the_table_has_exactly_the_89_languages():
    expected = {" ".join(name.split()) for name in THE_89.split(",")}
    assert len(expected) == 89 == len(LANGUAGES)
    assert set(LANGUAGES) == expected == set(EXTENSIONS)
    for table in (FILE_NAMES, INTERPRETERS, ALIASES):
        assert set(table) <= expected


def test_an_extension_of_several_languages_is_decided_by_content():
    owners: dict[str, set[str]] = {}
    for language, extensions in EXTENSIONS.items():
        for extension in extensions.split():
            owners.setdefault(extension, set()).add(language)
    assert {extension for extension, found in owners.items() if len(found) > 1} <= set(_CONTENT_RULES)
    for extension, rules in _CONTENT_RULES.items():
        assert {language for language, _ in rules} - {UNKNOWN} <= owners[extension]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_can_be_found_by_name(language):
    assert by_alias(language) == language
    assert any(may_be_code(f"file.{extension}") for extension in EXTENSIONS[language].split())


OBJECTIVE_C = '#import "A.h"\n@interface A : NSObject\n@end\n'
LABELLED = [
    ("setup.py", "import os\n", "Python"),
    ("stubs/os.pyi", "def f() -> int: ...\n", "Python"),
    ("Makefile", "all:\n\tcc x.c\n", "Makefile"),
    ("src/Makefile.am", "bin_PROGRAMS = x\n", "Makefile"),
    ("rules.mk", "A := 1\n", "Makefile"),
    ("CMakeLists.txt", "project(x)\n", "CMake"),
    ("notes.txt", "project(x)\n", UNKNOWN),
    ("Dockerfile", "FROM x\n", "Dockerfile"),
    ("Dockerfile.gpu", "FROM x\n", "Dockerfile"),
    ("web.dockerfile", "FROM x\n", "Dockerfile"),
    ("Gemfile", "gem 'x'\n", "Ruby"),
    ("Jenkinsfile", "pipeline {}\n", "Groovy"),
    (".bashrc", "alias l=ls\n", "Shell"),
    (".gitignore", "*.o\n", UNKNOWN),
    ("bin/run", "#!/usr/bin/env python3\nprint(1)\n", "Python"),
    ("bin/run", "#!/usr/bin/env -S FOO=1 node --x\n", "JavaScript"),
    ("bin/run", "#! /bin/sh -e\n", "Shell"),
    ("bin/run", "#!/usr/local/bin/perl5.36\n", "Perl"),
    ("bin/run", "#!/bin/tcsh\n", "Tcsh"),
    ("bin/run", '#!/bin/sh\n# \\\nexec tclsh "$0" "$@"\n', "Tcl"),
    ("bin/run", "#!/opt/strange\n", UNKNOWN),
    ("bin/run", "just words\n", UNKNOWN),
    ("page.cgi", "#!/usr/bin/perl\n", "Perl"),
    ("startup", ";; -*- mode: emacs-lisp; lexical-binding: t -*-\n", "Emacs Lisp"),
    ("startup", "# -*- coding: utf-8 -*-\n", UNKNOWN),
    ("startup", "# vim: set ts=4 ft=ruby:\n", "Ruby"),
    ("photo.png", "#!/usr/bin/env python\n", UNKNOWN),
    ("LICENSE", "MIT License\n", UNKNOWN),
    ("a.h", "#ifndef A_H\n#define A_H\nint f(void);\n#endif\n", "C"),
    ("a.h", '#ifdef __cplusplus\nextern "C" {\n#endif\nint f(void);\n', "C"),
    ("a.h", "#include <vector>\nnamespace a {\nclass B {\n public:\n  B();\n};\n}\n", "C++"),
    ("a.h", "template <typename T> T f();\n", "C++"),
    ("a.h", "// -*- C++ -*-\nint f();\n", "C++"),
    ("a.h", OBJECTIVE_C, UNKNOWN),
    ("a.C", "int f() {}\n", "C++"),
    ("a.c", "int f() {}\n", "C"),
    ("k.cu", "__global__ void f() {}\n", "CUDA"),
    ("a.m", OBJECTIVE_C, UNKNOWN),
    ("a.m", "function y = f(x)\n% doubles\ny = 2 * x;\nend\n", "MATLAB"),
    ("a.m", '(* Package *)\nBeginPackage["A`"]\nf[x_] := x^2\n', "Mathematica"),
    ("a.v", "module a(input b);\nassign c = b;\nendmodule\n", "Verilog"),
    ("a.v", "Require Import List.\nTheorem a : True.\nProof. auto. Qed.\n", UNKNOWN),
    ("a.sv", "module a;\nendmodule\n", "SystemVerilog"),
    ("a.pl", "use strict;\nmy $x = 1;\nprint $x;\n", "Perl"),
    ("a.pl", ":- module(a, [b/1]).\nb(X) :- c(X).\n", "Prolog"),
    ("a.pl", "parent(tom, bob).\ngrandparent(X, Z) :- parent(X, Y), parent(Y, Z).\n", "Prolog"),
    ("a.pl", "print 'hello';\n", "Perl"),
    ("a.pm", "package A;\n1;\n", "Perl"),
    ("a.pm", "/* XPM */\nstatic char *a[] = {};\n", UNKNOWN),
    ("a.t", "use Test::More;\nok(1);\n", "Perl"),
    ("a.t", "Turing or anything else\n", UNKNOWN),
    ("a.R", "f <- function(x) x + 1\n", "R"),
    ("a.r", "REBOL [Title: \"x\"]\n", UNKNOWN),
    ("a.Rmd", "---\ntitle: x\n---\n", "RMarkdown"),
    ("a.cls", "VERSION 1.0 CLASS\nAttribute VB_Name = \"A\"\n", "Visual Basic"),
    ("a.cls", "\\NeedsTeXFormat{LaTeX2e}\n\\ProvidesClass{a}\n", "TeX"),
    ("a.cls", "public class A {}\n", UNKNOWN),
    ("a.sql", "SELECT 1;\n", "SQL"),
    ("a.fs", "module A\nlet x = 1\n", "F#"),
    ("a.fs", "#version 330\nuniform vec4 c;\nvoid main() {}\n", "GLSL"),
    ("a.fs", ": square dup * ;\n", UNKNOWN),
    ("a.ts", "export const a: number = 1;\n", "TypeScript"),
    ("a.ts", '<?xml version="1.0"?>\n<TS></TS>\n', UNKNOWN),
    ("a.tsx", "export const A = () => <div />;\n", "TypeScript"),
    ("a.inc", "<?php\n$a = 1;\n", "PHP"),
    ("a.inc", "#define A 1\n", "C"),
    ("a.inc", "  mov eax, 1\n", "Assembly"),
    ("a.inc", "lorem ipsum\n", UNKNOWN),
    ("a.inc", "const\n  Size = 3;\ntype\n  PItem = ^TItem;\n", "Pascal"),
    ("a.inc", "{$ifdef UNIX}\nprocedure Stop; forward;\n{$endif}\n", "Pascal"),
    ("a.inc", "#include <a.h>\n/* begin\n * uses x */\nstatic int f(void);\n", "C"),
    ("a.inc", "#ifndef A\nnamespace a {\nclass B;\n}\n#endif\n", "C++"),
    ("a.h", "/* class of virtual memory, using pages\n explicit or not */\nint f(void);\n", "C"),
    ("a.h", "class A : public B {\n  virtual int f() = 0;\n};\n", "C++"),
    ("a.fs", "\\ squares\n: square ( n -- n ) dup * ;\n", UNKNOWN),
    ("a.fs", "let f (x : int)\n      : int = x\n", "F#"),
    ("a.g", "class P extends Parser;\nrule : A ;\n", "ANTLR"),
    ("a.g", "BindGlobal( \"f\", function( x ) return x; end );\n", UNKNOWN),
    ("a.exp", "load_generic_config \"sim\"\n", "Tcl"),
    ("a.sc", "Mix {\n\t*new { arg array; ^array.sum }\n}\n", UNKNOWN),
    ("a.sc", "object A {\n  def f(x: Int) = x\n}\n", "Scala"),
    ("a.pl", "parent(tom, bob).\nparent(bob, ann).\n", "Prolog"),
    ("a.t", "require './test.pl';\nplan(1);\n", "Perl"),
    ("a.t", "  $ hg init\n", UNKNOWN),
    ("a.xml", '<?xml version="1.0"?>\n<a/>\n', UNKNOWN),
    ("a.xml", '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">\n', "XSLT"),
    ("a.xsl", "<xsl:stylesheet/>\n", "XSLT"),
    ("a.md", "# Title\n", "Markdown"),
    ("a.md", "(define_insn \"*mov\"\n", UNKNOWN),
    ("a.lagda.md", "# Title\n", "Literate Agda"),
    ("a.coffee.md", "# Title\n", "Literate CoffeeScript"),
    ("a.cl", "(defun f (x) x)\n", "Common Lisp"),
    ("a.cl", "__kernel void f() {}\n", UNKNOWN),
    ("a.l", "%%\n[a-z] ECHO;\n", UNKNOWN),
    ("a.y", "%token A\n%%\ns: A ;\n", "Yacc"),
    ("a.g", "grammar A;\ns : 'x' ;\n", "ANTLR"),
    ("a.cs", "using System;\nclass A {}\n", "C#"),
    ("a.st", "Object subclass: #A\n", "Smalltalk"),
    ("a.st", "$name$ is <b>here</b>\n", UNKNOWN),
    ("a.pro", "parent(a, b).\nx(Y) :- parent(Y, b).\n", "Prolog"),
    ("a.pro", "TEMPLATE = app\nSOURCES += main.cpp\n", UNKNOWN),
    ("a.pp", "unit A;\ninterface\nend.\n", "Pascal"),
    ("a.pp", "class apache { package { 'httpd': } }\n", UNKNOWN),
    ("a.als", "sig A {}\nrun {}\n", "Alloy"),
    ("a.ipynb", '{"cells": []}\n', UNKNOWN),
    ("a.json", "{}\n", "JSON"),
    ("a.rst", "Title\n=====\n", "reStructuredText"),
    ("a.proto", 'syntax = "proto3";\n', "Protocol Buffer"),
    ("Main.JAVA", "class A {}\n", "Java"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "language"), LABELLED)
def test_labelled_files(path, text, language):
    assert detect(path, text) == language


@pytest.mark.parametrize(
    ("said", "language"),
    [("c-sharp", "C#"), ("cpp", "C++"), ("Visual Basic", "Visual Basic"), ("latex", "TeX"),
     ("protocol-buffer", "Protocol Buffer"),
     ("java-server-pages", "Java Server Pages"), ("R", "R"), ("python3", "Python"), ("vue", UNKNOWN), ("", UNKNOWN)],
)  # fmt: skip
def test_what_tables_call_languages(said, language):
    assert by_alias(said) == language


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(_CONTENT_RULES)), st.text(max_size=300))
def test_any_text_gets_one_of_the_answers(extension, text):
    assert detect(f"x.{extension}", text) in {*LANGUAGES, UNKNOWN}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", ["\n", " ", "a", "_", "a[___", "class a ", "main(", "| a ", "-*-", "<xsl:stylesheet "])
def test_monotonous_text_does_not_hang_a_rule(line):
    text = (line * 20_000)[:20_000]
    for extension in _CONTENT_RULES:
        assert detect(f"x.{extension}", text) in {*LANGUAGES, UNKNOWN}
