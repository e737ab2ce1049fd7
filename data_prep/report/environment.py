"""Templates of reports: one HTML page each, no script, nothing loaded."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from data_prep.report.formats import FILTERS, visible


@cache
def environment(folder: Path) -> Environment:
    """Escapes everything that is printed and makes its invisible characters visible; what is missing prints nothing.

    Templates come from `folder`, and from that of this file (`style.css`, `macros.html.j2`).
    """
    made = Environment(
        autoescape=True,
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        undefined=ChainableUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS | {"log": math.log}
    return made


def parts(rows: Sequence[Any], top: int) -> dict[str, Sequence[Any]]:
    """The rows to show at once and those behind a click; a single one is not worth a click."""
    return {"first": rows[:top], "rest": rows[top:]} if len(rows) > top + 1 else {"first": rows, "rest": []}
