"""Notebooks become scripts: cells in order, no outputs, in the language of their kernel."""

import json
from typing import Any

import jupytext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.languages import UNKNOWN
from data_prep.sources.content import content_of
from data_prep.sources.notebooks import NotebookError, as_script

OUTPUT = {"output_type": "stream", "name": "stdout", "text": ["a secret output\n"]}


def notebook(cells: list[tuple[str, Any]], metadata: dict | None = None) -> str:
    made = []
    for kind, source in cells:
        cell = {"cell_type": kind, "metadata": {}, "source": source}
        made.append(cell | ({"outputs": [OUTPUT], "execution_count": 1} if kind == "code" else {}))
    return json.dumps({"cells": made, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 2})


def kernel(name: str, language: str | None = None) -> dict:
    return {"kernelspec": {"name": name, "display_name": name} | ({"language": language} if language else {})}


def test_cells_in_order_without_outputs():
    text = notebook(
        [("markdown", ["# Title\n", "\n", "Some *words*."]), ("code", ["import os\n", "os.getcwd()"]), ("code", [])]
    )
    assert as_script(text) == (
        "# %% [markdown]\n# # Title\n#\n# Some *words*.\n\n# %%\nimport os\nos.getcwd()\n",
        "Python",
    )


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({}, "Python"),
        (kernel("python3", "python"), "Python"),
        (kernel("python2"), "Python"),
        (kernel("ir", "R"), "R"),
        (kernel("ir"), "R"),
        (kernel("julia-1.10", "julia"), "Julia"),
        (kernel("xcpp17", "C++17"), "C++"),
        ({"language_info": {"name": "typescript"}}, "TypeScript"),
        (kernel("bash"), "Shell"),
        (kernel("mystery"), UNKNOWN),
    ],
)
def test_the_language_is_that_of_the_kernel(metadata, language):
    assert as_script(notebook([("code", "x <- 1")], metadata))[1] == language


def test_comments_are_those_of_the_language():
    script, _ = as_script(notebook([("markdown", "Words"), ("code", "let x = 1;")], kernel("deno", "typescript")))
    assert script == "// %% [markdown]\n// Words\n\n// %%\nlet x = 1;\n"


def test_what_is_no_python_is_a_comment():
    cells = [
        ("code", "%matplotlib inline\nimport os\n!pip install x\nos?\nif a != b:\n    pass"),
        ("code", "%%bash\nls -l"),
        ("code", "%%time\nf()"),
        ("code", "x = (a\n    % b)"),
    ]
    script, _ = as_script(notebook(cells))
    assert script == (
        "# %%\n# %matplotlib inline\nimport os\n# !pip install x\n# os?\nif a != b:\n    pass\n\n"
        "# %%\n# %%bash\n# ls -l\n\n# %%\n# %%time\nf()\n\n# %%\nx = (a\n    % b)\n"
    )
    compile(script, "script", "exec")


def test_notebooks_of_the_format_before():
    old = {
        "nbformat": 3,
        "metadata": {"name": ""},
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": ["Title"]},
                    {"cell_type": "code", "language": "python", "input": ["a = 1\n", "b = 2"], "outputs": [OUTPUT]},
                ]
            }
        ],
    }
    assert as_script(json.dumps(old)) == ("# %% [markdown]\n# ## Title\n\n# %%\na = 1\nb = 2\n", "Python")


HEADING = '{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading", "level": %s, "source": "Title"}]}]}'


@pytest.mark.parametrize(
    ("level", "signs"), [("1000000000", "######"), ("10000000000000000000", "######"), ("1e19", "######"), ("-3", "#")]
)
def test_headings_have_one_to_six_levels(level, signs):
    assert as_script(HEADING % level)[0] == f"# %% [markdown]\n# {signs} Title\n"


@pytest.mark.parametrize("level", ["Infinity", "NaN", "null"])
def test_headings_of_no_level(level):
    with pytest.raises(NotebookError):
        as_script(HEADING % level)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cells": 1}', '{"cells": [{}]}', '"x"', "null"])
def test_what_is_no_notebook(text):
    with pytest.raises(NotebookError):
        as_script(text)


lines = st.text(st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from(" =().+"), max_size=20)
sources = st.lists(lines, min_size=1, max_size=5).map("\n".join).filter(lambda source: source.strip())


@given(st.lists(st.tuples(st.sampled_from(["code", "markdown"]), sources), min_size=1, max_size=6))
def test_jupytext_reads_the_same_cells(cells):
    cells = [(kind, source.strip()) for kind, source in cells]
    script, language = as_script(notebook(cells, kernel("python3", "python")))
    assert language == "Python"
    back = jupytext.reads(script, fmt="py:percent")
    assert [(cell.cell_type, cell.source) for cell in back.cells] == cells


def test_the_size_that_counts_is_that_of_the_cells(tmp_path, files, take, rows):
    heavy = json.loads(notebook([("code", "x = 1")]))
    heavy["cells"][0]["outputs"] = [{"data": {"image/png": "A" * 5000}}]
    files(
        tmp_path / "root",
        {
            "r/heavy.ipynb": json.dumps(heavy),
            "r/long.ipynb": notebook([("code", "y = 1\n" * 400)]),
            "r/bad.ipynb": "{",
            "r/words.ipynb": notebook([("code", "x")], kernel("mystery")),
            "r/blank.ipynb": notebook([("code", " ")]),
        },
    )
    report = take(tmp_path / "root", max_file_bytes=1000)
    assert [(row["path"], row["language"], row["text"]) for row in rows()] == [
        ("heavy.ipynb", "Python", "# %%\nx = 1\n")
    ]
    assert {reason: drop["examples"] for reason, drop in report.drops.items()} == {
        "malformed_notebook": ["r/bad.ipynb"],
        "too_large": ["r/long.ipynb"],
        "unknown_language": ["r/words.ipynb"],
        "empty": ["r/blank.ipynb"],
    }


def test_a_notebook_in_a_table():
    found = content_of("a/b.ipynb", notebook([("code", "x = 1")]), 1000, said="jupyter-notebook")
    assert (found.text, found.language) == ("# %%\nx = 1\n", "Python")
