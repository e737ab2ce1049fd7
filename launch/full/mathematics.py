"""Explanations with formulas in installed Python packages: what there is of mathematics on a machine.

Packages that compute say in long strings of their source what they compute, in reStructuredText with formulas in LaTeX.
What such a string says of code is left out: examples, literal blocks, lists of parameters.
"""

from __future__ import annotations

import ast
import html
import inspect
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

_MOST_BYTES = 1_000_000
"""Longer files are passed over; ours, as the next two."""
_LEAST_CHARACTERS = 400
_LEAST_FORMULAS = 3
_FORMULA = re.compile(r":math:`|\.\. math ?::|\\(?:frac|sum|int|sqrt|prod|infty|partial|mathbb|Gamma)\b")
_PART = 3
"""Names of a module that make a site: those of packages with so much mathematics alone would be few."""

_INDENTED = r"(?:\n(?:[ \t]*(?=\n|\Z)|\1[ \t]+.*))*"  # below a line whose own indentation is the first group
_DISPLAYED = re.compile(rf"^([ \t]*)\.\. math ?::(.*{_INDENTED})", re.M)
_OPTION = re.compile(r"^\s*:\w+:.*$", re.M)
_EXAMPLE = re.compile(r"^[ \t]*>>>.*(?:\n[ \t]*\S.*)*", re.M)
_NAMED = "args|arguments|keyword args|parameters|returns|raises|shape|attributes|inputs?|outputs?|examples?|references"
_LEFT_OUT = re.compile(rf"^([ \t]*)(?:\.\. .*|.*::|(?:{_NAMED}):){_INDENTED}", re.M | re.I)
_SECTION = re.compile(
    r"^(?:parameters|returns|yields|raises|warns|see also|examples?|references|attributes|methods|other parameters)"
    r"\n[-=~]{3,}\n(?:(?!\S.*\n[-=~]{3,}$).*(?:\n|\Z))*",
    re.M | re.I,
)
_HEADING = re.compile(r"^(\S.*)\n[-=~^\"*]{3,}[ \t]*$", re.M)
_HEADING_MARK = "## "
_INLINE = re.compile(r":math:`([^`]+)`|``([^`]+)``|(?::[\w:]+:)?`~?([^`]+)`_{0,2}")


def explanations(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Of each long string with formulas below a folder of packages: (site, place, what it says).

    The site is a package and its part, the place file and line. Tests are passed over.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("tests", "test", "testing", "__pycache__"))
        for name in sorted(names):
            path = Path(place, name)
            if name.endswith(".py") and (source := _with_formulas(path)):
                below = path.relative_to(folder)
                site = "-".join(below.with_suffix("").parts[:_PART])
                yield from ((site, f"{below}/{line}", said) for line, said in _strings(source))


def _with_formulas(path: Path) -> str | None:
    try:
        source = path.read_text(encoding="utf-8") if path.stat().st_size <= _MOST_BYTES else ""
    except (OSError, UnicodeError):
        return None
    return source if len(_FORMULA.findall(source)) >= _LEAST_FORMULAS else None


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string that is long and holds formulas."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages' own sins
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _explains(node.value):
            yield node.lineno, node.value


def _explains(text: str) -> bool:
    return len(text) >= _LEAST_CHARACTERS and len(_FORMULA.findall(text)) >= _LEAST_FORMULAS


def as_html(text: str) -> tuple[str, str] | None:
    r"""Title, as plain text, and body of a page: prose and formulas, these between `\(` and `\)` or `\[` and `\]`.

    The title is what the explanation begins with. None where too little is left of it.
    """
    text = _DISPLAYED.sub(_displayed, inspect.cleandoc(text))
    text = _LEFT_OUT.sub("", _EXAMPLE.sub("", _SECTION.sub("", text)))
    text = _HEADING.sub(rf"\n{_HEADING_MARK}\1\n", text)
    paragraphs = [_INLINE.sub(_marked, " ".join(part.split())) for part in re.split(r"\n\s*\n", text) if part.strip()]
    body = "\n".join(map(_paragraph, paragraphs[1:]))
    formulas = len(re.findall(r"\\[(\[]", body))
    return (paragraphs[0], body) if len(body) >= _LEAST_CHARACTERS and formulas >= _LEAST_FORMULAS else None


def _displayed(found: re.Match[str]) -> str:
    formula = " ".join(_OPTION.sub("", found[2]).split())
    return f"\n\\[ {formula} \\]\n" if formula else ""


def _paragraph(text: str) -> str:
    if text.startswith(_HEADING_MARK):
        return f"<h2>{html.escape(text.removeprefix(_HEADING_MARK))}</h2>"
    return f"<p>{html.escape(text)}</p>"


def _marked(found: re.Match[str]) -> str:
    """Formulas are marked as such; so is what stands between single quotes, as some packages have it, and holds one."""
    formula, literal, other = found.groups()
    if formula is not None or (other is not None and re.search(r"[\\^={}]", other)):
        return f"\\({formula or other}\\)"
    return literal if literal is not None else other
