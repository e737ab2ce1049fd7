"""The quickstart's numbers on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_prep.report.formats import visible
from data_prep.sources.base import without_size


def print_summary(results: dict[str, Any], run_dir: Path, console: Console) -> None:
    """What came in and what was dropped why, what was learnt and how fast, and what the model writes."""
    console.print()
    console.print(_data(results["data"]))
    console.print(_training(results))
    for sample in results["samples"]:
        console.print(sample_panel(sample))
    print_proof(results["export"], console)
    console.print()
    print_places(run_dir, console)


def print_proof(export: dict[str, Any], console: Console) -> None:
    for check in export["checks"]:
        console.print(f"[green]proved[/green] {check['name']}: {check['value']}")


def print_places(run_dir: Path, console: Console) -> None:
    """Where model and report are."""
    for name, path in (("model", f"{run_dir / 'hf'}/   (transformers loads it)"), ("report", run_dir / "report.html")):
        # Unbroken, to be copied.
        console.print(f"{name:<8}{path}", markup=False, highlight=False, soft_wrap=True)


def _data(data: dict[str, Any]) -> Table:
    table = Table(title="Data", title_justify="left", title_style="bold", box=None)
    for column in ("step", "documents", "MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    imported, selection = data["import"], data["selection"]
    for drop in sorted(imported["drops"].values(), key=lambda drop: -drop["count"]):
        size_bytes = None if without_size(drop) == drop["count"] else drop["size_bytes"]
        _amount(table, f"  left out: {drop['meaning']}", drop["count"], size_bytes)
    _amount(table, "imported", imported["documents"], imported["text_bytes"])
    for step in selection["dropped"]:
        _amount(table, f"  dropped: {step['rule'].replace('_', ' ')}", step["documents"], step["size_bytes"])
    for split, left in selection["left"].items():
        name = f"{split.replace('_', ' ')} ({left['repositories']} repositories)"
        _amount(table, name, left["documents"], left["size_bytes"])
    return table


def _amount(table: Table, name: str, count: int, size_bytes: int | None) -> None:
    table.add_row(name, f"{count:,}", "–" if size_bytes is None else f"{size_bytes / 1e6:,.1f}")


def _training(results: dict[str, Any]) -> Table:
    training, held_out = results["training"], results["training"]["held_out"]
    first, last = held_out[0], held_out[-1]
    table = Table(title="Training", title_justify="left", title_style="bold", box=None, show_header=False)
    rows = {
        "model": f"{results['model']['parameters'] / 1e6:.1f} M parameters, {results['machine']}",
        "tokens": f"{training['tokens']:,} in {training['steps']} steps, {training['seconds']:.0f} s",
        "tokens per second": f"{training['tokens_per_second']:,.0f} on {training['processes']} processes",
        "held-out loss, start": f"{first['loss']:.3f} nats per token",
        "held-out loss, end": f"{last['loss']:.3f} nats per token, {last['bits_per_byte']:.3f} bits per byte",
        "held-out unigram entropy": f"{training['unigram_entropy']:.3f} nats per token (knows token frequencies only)",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def sample_panel(sample: dict[str, str]) -> Panel:
    """What was given, and in bold what the model wrote."""
    text = Text(sample["prefix"], style="dim") + Text(visible(sample["output"]), style="bold")
    if "suffix" in sample:
        text += Text(sample["suffix"], style="dim")
    return Panel(text, title=f"{sample['kind']} (bold: the model's)", title_align="left")
