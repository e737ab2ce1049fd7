"""The numbers of `quickstart --full` on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.report.formats import count, decimal, duration, shortened
from launch.summary import print_places, print_proof, sample_panel

_GIVEN = (150, 250)
"""Characters that are shown of a prompt, of its beginning and of its end."""


def print_summary(results: dict[str, Any], run_dir: Path, console: Console) -> None:
    """What each phase read and taught, what was proved, and where to look."""
    console.print()
    console.print(_phases(results["training"]))
    for sample in results["samples"]:
        console.print(sample_panel({**sample, "prefix": shortened(sample["prefix"], *_GIVEN)}))
    print_proof(results["export"], console)
    console.print(f"\n{duration(sum(results['seconds'].values()))} in all")
    print_places(run_dir, console)


def _phases(training: dict[str, Any]) -> Table:
    sources = list(dict.fromkeys(point["source"] for point in training["held_out"]))
    table = Table(title="Phases", title_justify="left", title_style="bold", box=None)
    table.add_column("phase")
    for name in ("context", "rate", "tokens", *(f"held out: {source}" for source in sources)):
        table.add_column(name, justify="right")
    for phase in training["phases"]:
        losses = [decimal(phase["held_out"].get(source, {}).get("loss"), 3) for source in sources]
        rate = f"{phase['learning_rate']:.2e}"
        table.add_row(phase["name"], count(phase["sequence_length"]), rate, count(phase["tokens"]), *losses)
    return table
