"""Jupyter notebooks as scripts: their cells in order, without outputs, in the percent format that editors read.

A code cell follows a line `# %%`, a Markdown cell `# %% [markdown]` and a raw cell `# %% [raw]`, both as comments. What
is no code of the notebook's language is a comment too: IPython's magics and shell lines, and whole cells of another
language (`%%bash`). jupytext reads and writes the same format.
"""

import json
import re
from typing import Any

from data_prep.languages import UNKNOWN, by_alias

_COMMENT_SIGNS = {
    "#": "Python R Julia Ruby Shell Perl Tcl PowerShell Elixir CoffeeScript Tcsh AWK",
    "//": "JavaScript TypeScript Scala Java Kotlin Go Rust C C++ C# F# Groovy Dart Swift Solidity PHP CUDA Zig",
    "%": "MATLAB Prolog Erlang",
    "--": "SQL Haskell Lua Ada",
    ";": "Clojure Scheme Racket",
    "*": "SAS Stata",
}
_COMMENT_OF = {name: sign for sign, names in _COMMENT_SIGNS.items() for name in names.split()}
_MAGIC = re.compile(r"\s*(%%?[A-Za-z_]|!(?!=)|\?)|[\w.]+\?\??\s*$")
_OTHER_LANGUAGE = re.compile(
    r"\s*%%(bash|sh|script|html|javascript|js|latex|markdown|perl|ruby|svg|sql|cython|R|julia|writefile|file)\b"
)
_KERNELS = {"ir": "R", "xpython": "Python", "sos": "Python", "sagemath": "Python", "ijavascript": "JavaScript"}


class NotebookError(ValueError):
    """A text that is no notebook."""


def as_script(text: str) -> tuple[str, str]:
    """(script, language) of a notebook (nbformat 3 or 4); the script is empty where no cell says anything.

    The language is `unknown` where the notebook names one that we do not know, or whose comments we do not; one that
    names none is in Python, as Jupyter takes it. Raises `NotebookError`.
    """
    try:
        notebook = json.loads(text)
        cells = _cells(notebook)
        language = _language(notebook, cells)
        comment = _COMMENT_OF.get(language)
        if comment is None:
            return "", UNKNOWN
        parts = [part for kind, source in cells if source.strip() and (part := _cell(kind, source, comment))]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise NotebookError(str(error)) from None
    return "\n\n".join(parts) + "\n" if parts else "", language


def _cells(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, source) of each cell."""
    if "cells" in notebook:
        return [(cell["cell_type"], _joined(cell["source"])) for cell in notebook["cells"]]
    found = []
    for cell in (cell for sheet in notebook["worksheets"] for cell in sheet["cells"]):
        source = _joined(cell["input"] if cell["cell_type"] == "code" else cell["source"])
        if cell["cell_type"] == "heading":
            found.append(("markdown", "#" * min(6, max(1, int(cell.get("level", 1)))) + " " + source))
        else:
            found.append((cell["cell_type"], source))
    return found


def _joined(source: str | list[str]) -> str:
    text = source if isinstance(source, str) else "".join(source)
    return text.encode("utf-8", "replace").decode().replace("\0", "")  # JSON may name halves of surrogate pairs


def _language(notebook: dict[str, Any], cells: list[tuple[str, str]]) -> str:
    metadata = notebook.get("metadata") or {}
    kernel = metadata.get("kernelspec") or {}
    said = [(metadata.get("language_info") or {}).get("name"), kernel.get("language"), kernel.get("name")]
    said += [cell.get("language") for sheet in notebook.get("worksheets", ()) for cell in sheet["cells"]]
    said = [name for name in said if isinstance(name, str) and name]
    for name in said:
        plain = re.sub(r"[-_ ]?[\d.]+$", "", name.lower())
        language = next((found for word in (name, plain) if (found := by_alias(word)) != UNKNOWN), _KERNELS.get(plain))
        if language:
            return language
    return UNKNOWN if said else "Python"


def _cell(kind: str, source: str, comment: str) -> str:
    lines = source.replace("\r\n", "\n").rstrip("\n").split("\n")
    if kind != "code":
        note = "raw" if kind == "raw" else "markdown"
        return f"{comment} %% [{note}]\n{_commented(lines, comment)}"
    first = next(line for line in lines if line.strip())
    if _OTHER_LANGUAGE.match(first):
        return f"{comment} %%\n{_commented(lines, comment)}"
    shown = [f"{comment} {line}" if _MAGIC.match(line) else line for line in lines]
    return "\n".join([f"{comment} %%", *shown])


def _commented(lines: list[str], comment: str) -> str:
    return "\n".join(f"{comment} {line}" if line else comment for line in lines)
