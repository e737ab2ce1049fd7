"""`megatron-seed compare`: the page, and its most important numbers on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.report.formats import visible
from launch.compare.differences import differences
from launch.compare.page import write_page
from launch.compare.read import RunRecord, read_runs
from launch.compare.summary import lines

_DIFFERENCES_SHOWN = 20
_NAMES_WIDTH = 34


def compare_command(paths: Sequence[Path], out: Path, console: Console) -> None:
    """Compare run folders; SeedError names a path that is none."""
    runs = read_runs(paths)
    write_page(runs, out)
    for run in runs:
        for remark in run.remarks:
            console.print(Text(f"{visible(run.label)}: {visible(remark)}", style="yellow"), soft_wrap=True)
    console.print(_final(runs))
    console.print()
    different = differences([run.config for run in runs])
    if len(runs) > 1:
        console.print(_settings(runs, different[:_DIFFERENCES_SHOWN]) if different else "settings: all the same")
    if len(different) > _DIFFERENCES_SHOWN:
        console.print(f"... and {len(different) - _DIFFERENCES_SHOWN} more in the page")
    console.print(f"\nwrote {out}", markup=False, highlight=False, soft_wrap=True)


def _final(runs: Sequence[RunRecord]) -> Table:
    table = _table("numbers", runs)
    for line in lines(runs):
        name = f"{line.name} ({line.note})" if line.note else line.name
        table.add_row(Text(visible(name)), *map(Text, line.values))
    return table


def _settings(runs: Sequence[RunRecord], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = _table("settings that differ", runs)
    for key, values in rows:
        table.add_row(Text(visible(key)), *(Text(visible(value)) for value in values))
    return table


def _table(title: str, runs: Sequence[RunRecord]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold", min_width=_NAMES_WIDTH)
    for run in runs:
        table.add_column(Text(visible(run.label)), justify="right", overflow="fold")
    return table
