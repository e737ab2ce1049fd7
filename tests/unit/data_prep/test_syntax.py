"""Syntax: shares of errors counted once, endings, and a table that knows all 89 languages."""

import inspect
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_sitter_language_pack import get_language

from data_prep.annotate import AnnotatorSpec, IsolationLimits, annotate
from data_prep.annotators.syntax import TABLE, Errors, Syntax, errors, grammar_of, parser, table
from data_prep.languages import LANGUAGES

GOOD = {
    "Python": inspect.getsource(random),
    "C": "#ifndef A\n#define A\nint f(int x) {\n#if B\n  if (x) {\n#else\n  if (!x) {\n#endif\n    return 1;\n  }\n"
    "  return 0;\n}\n#endif\n",
    "JSON": json.dumps({"a": [1, 2, {"b": None}], "c": "d"}, indent=1),
    "JavaScript": "export function f(a) {\n  return a.map((x) => `${x}!`);\n}\n",
    "Go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("x")\n}\n',
    "Java": "class A {\n  int f(int x) {\n    return x + 1;\n  }\n}\n",
}


def errors_of(language, text):
    data = text.encode("utf-8", "surrogatepass")
    grammar = table()[language].grammar
    return errors(parser(grammar).parse(data), data, grammar)


def judge(language, text, path="x"):
    found = Syntax().annotate([{"language": language, "text": text, "path": path}])
    return {name: values[0] for name, values in found.items()}


def test_the_table_has_all_languages_with_a_grammar_that_is_installed_or_a_reason():
    assert list(table()) == list(LANGUAGES)
    for row in table().values():
        if row.grammar:
            get_language(row.grammar)
        assert (row.threshold is None) == (row.unchecked is not None)
        if row.threshold is not None:
            facts = row.calibration
            assert facts["files"] >= 200 and sum(facts["sources"].values()) > 0
            assert facts["dropped"] <= 0.01 and facts["dropped_of_other_half"] <= 0.02
            assert 0 <= row.threshold <= 1 and set(row.endings) <= {"open", "error"}
        elif row.grammar is None:
            assert row.unchecked
    checked = {row.language for row in table().values() if row.threshold is not None}
    assert {"Python", "C", "C++", "Java", "JavaScript", "Go", "JSON", "Rust", "PHP", "C#"} <= checked
    how = json.loads(TABLE.read_text())["how"]
    assert how["least"] >= 200


@pytest.mark.parametrize("language", GOOD)
def test_good_files_pass_and_cut_ones_do_not(language):
    text = GOOD[language]
    good = judge(language, text)
    assert (good["broken"], good["ending"], good["unchecked"]) == (False, None, None)
    assert good["error_share"] == 0 or language == "C"  # whose grammar does not know what `#else` does
    inside = text.rindex("return") if "return" in text else len(text) // 2
    cut = judge(language, text[: inside + 1] + " (")
    assert cut["broken"] is True and cut["error_share"] > 0


def test_bytes_are_counted_once_and_what_is_missing_is_one_byte():
    fine = "x = 1\n" * 50
    assert errors_of("Python", fine) == Errors(0.0, None)
    wrong = errors_of("Python", fine + "y = = 2\n" + fine)
    assert 0 < wrong.share < 20 / 608 and wrong.ending is None
    assert errors_of("JSON", '{"a": [1, 2}').share <= 1
    missing = errors_of("C", "int f(void) { return 1 }\n")
    assert missing.share == pytest.approx(1 / 25) and missing.ending is None


def test_an_ending_is_told_from_an_error_elsewhere():
    body = "int f(int x) {\n  return x;\n}\n" * 20
    assert errors_of("C", body + "int g(int x) {\n  if (x) {\n    return").ending == "open"
    assert errors_of("C", "#ifdef A\n" + body).ending == "open"
    assert errors_of("C", "int ) = ;\n" + body).ending is None
    assert errors_of("C", body + "int g = ").ending == "error"


def test_branches_of_a_condition_open_one_bracket_together():
    half = "#if A\nif (x) {\n#elif B\nif (y) {\n#else\nif (z) {\n#endif\n"
    assert errors_of("C", "void f(void) {\n" + half + "g();\n}\n} )\n").ending != "open"
    assert errors_of("C", "void f(void) {\n" + half + "g();\n").ending == "open"


def test_dialects_and_languages_without_a_grammar():
    assert grammar_of(table()["TypeScript"], "a/b.tsx") == "tsx"
    assert grammar_of(table()["TypeScript"], "a/b.ts") == "typescript"
    assert grammar_of(table()["OCaml"], "x.MLI") == "ocaml_interface"
    assert judge("OCaml", "{ let x", "lexer.mll")["unchecked"] == "no grammar"
    assert judge("SAS", "data a; run;") == {
        "error_share": None, "ending": None, "broken": None, "unchecked": "no grammar",
    }  # fmt: skip
    assert judge("Markdown", "# x\n")["unchecked"] == "any text is valid"
    assert judge("a language that nobody knows", "x")["unchecked"] == "no grammar"


def test_a_language_that_is_not_calibrated_has_its_share_recorded_and_passes():
    row = next(row for row in table().values() if row.grammar and row.threshold is None)
    found = judge(row.language, ")))(((\n" * 5)
    assert found["broken"] is None and found["unchecked"] == row.unchecked and found["error_share"] is not None


HOSTILE = {
    "empty": "",
    "space": "\n \t",
    "nuls": "\0\0x = 1\0",
    "surrogate": "x = '\ud800'\n",
    "one line": "x=1;" * 250_000,
    "deep": "(" * 50_000 + ")" * 50_000,
    "deep open": "[" * 200_000,
    "bom": "\ufeffx = 1\n",
    "carriage returns": "x = 1\r" * 1000,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("language", ["Python", "C", "JSON", "JavaScript"])
def test_hostile_files_have_an_answer(kind, language):
    found = judge(language, HOSTILE[kind])
    assert 0 <= found["error_share"] <= 1 and isinstance(found["broken"], bool)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.sampled_from("ab1 \n\t(){}[]\"'#\\/*=<>;:,.$`é\0"), max_size=80),
    language=st.sampled_from(sorted(GOOD)),
)
def test_any_text_has_a_share_between_none_and_all(text, language):
    found = errors_of(language, text)
    tree = parser(table()[language].grammar).parse(text.encode())
    assert 0 <= found.share <= 1
    assert (found.share > 0) == (tree.root_node.has_error and len(text) > 0)
    assert found.ending in (None, "open", "error")


def test_a_file_that_hangs_the_parser_is_skipped(tmp_path, files, take, monkeypatch):
    """A grammar that takes minutes stands for one that hangs: either way the process that parses is ended."""
    (tmp_path / "slow_syntax.py").write_text(
        "import time\nfrom data_prep.annotators import syntax\n"
        "class SlowSyntax(syntax.Syntax):\n"
        "    def _judge(self, document):\n"
        "        while 'HANG' in document['text']: pass\n"
        "        return super()._judge(document)\n"
    )
    take(files(tmp_path / "root", {"a/x.py": "x = 1\n", "a/y.py": "HANG = 1\n", "a/z.py": "x = (\n"}))
    spec = AnnotatorSpec.of("slow_syntax:SlowSyntax", tmp_path)
    (result,) = annotate(tmp_path / "corpus", [spec], 1, IsolationLimits(timeout_s=1))
    assert (result["failed"], result["failures"][0]["path"], result["counts"]["broken"]) == (1, "y.py", 1)


@pytest.mark.parametrize("name", ["syntax", "structure", "imports"])
def test_a_file_that_takes_all_memory_costs_itself(tmp_path, files, take, name):
    """A third of a megabyte of `a(` makes the parser of C ask for some 800 MB."""
    take(files(tmp_path / "root", {"a/x.c": "int x;\n", "a/y.c": "a(" * 170_000, "a/z.c": "int z;\n"}))
    (result,) = annotate(tmp_path / "corpus", [AnnotatorSpec.of(name, memory_gb=0.5)])
    assert (result["failed"], result["failures"][0]["path"]) == (1, "y.c")
    assert result["failures"][0]["why"].startswith("crashed")
