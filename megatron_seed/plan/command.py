"""`megatron-seed plan`: from what was typed to what is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.plan.hardware import GPUS, Assumptions, override
from megatron_seed.plan.planner import make_plan
from megatron_seed.plan.report import as_values, print_plan

_WIDTH = 110
"""Of tables that go into a file."""


def plan_command(
    recipe: str,
    overrides: Sequence[str],
    gpus: int,
    gpu: str,
    mfu: float,
    changes: Sequence[str],
    layouts: int,
    *,
    as_json: bool,
) -> None:
    """Print the plan; SeedError for what cannot be planned."""
    if gpu not in GPUS:
        raise SeedError(f"gpu {gpu}: not in the table; known: {', '.join(sorted(GPUS))} (--assume replaces numbers)")
    hardware, assumptions = override(GPUS[gpu], Assumptions(), _numbers(changes))
    plan = make_plan(load_recipe(recipe, overrides), gpus, hardware, assumptions, mfu, layouts)
    if as_json:
        print(json.dumps(as_values(plan), indent=1, allow_nan=False))
        return
    console = Console(markup=False)
    print_plan(plan, console if console.is_terminal else Console(markup=False, width=_WIDTH))


def _numbers(changes: Sequence[str]) -> dict[str, float]:
    found = {}
    for change in changes:
        name, equals, text = change.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise SeedError(f"assume {change!r}: write it as NAME=NUMBER, for example restart_s=300")
    return found
