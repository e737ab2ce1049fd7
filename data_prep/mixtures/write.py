"""What `data mixtures` prints and writes: a table, `PHASE/blend.yaml`, and `mixtures.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table

from data_prep.mixtures.builds import Build
from data_prep.mixtures.plan import Entry, PhasePlan, Plan
from data_prep.mixtures.settings import MixtureConfig
from data_prep.shards import write_atomic, write_json
from data_prep.storage import as_path

FORMAT = "data_prep.mixtures/1"


def blend_of(phase: PhasePlan) -> list[dict[str, Any]]:
    """The value of `blend:` in a recipe."""
    return [
        {
            "name": entry.category,
            "builds": [build.prefix for build in entry.builds],
            "weight": entry.share,
            "fim": entry.rate,
            **({"loss": "target"} if any(build.on_target for build in entry.builds) else {}),
        }
        for entry in phase.entries
    ]


def write_plan(out: Path, config: MixtureConfig, planned: Plan) -> list[Path]:
    """Writes a file for each phase and, last, all numbers; returns the phases' files."""
    paths = []
    for phase in planned.phases:
        path = as_path(out) / phase.name / "blend.yaml"
        text = "\n".join([*_heading(phase), yaml.safe_dump(blend_of(phase), sort_keys=False, allow_unicode=True)])
        data = text.encode()
        write_atomic(path, lambda stream, data=data: stream.write(data))
        paths.append(path)
    write_json(as_path(out) / "mixtures.json", summary(config, planned))
    return paths


def _heading(phase: PhasePlan) -> list[str]:
    lines = [f"# Phase {phase.name}: {phase.tokens:,} tokens"]
    for entry in phase.entries:
        lines.append(f"#   {entry.category}: {entry.tokens:,} tokens, {entry.epochs:.4g} epochs")
    return [*lines, *(f"#   {note}" for note in phase.notes)]


def summary(config: MixtureConfig, planned: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json", exclude_none=True),
        "phases": [
            {
                "name": phase.name,
                "tokens": phase.tokens,
                "notes": phase.notes,
                "blend": [
                    {**written, **_numbers(e)} for e, written in zip(phase.entries, blend_of(phase), strict=True)
                ],
            }
            for phase in planned.phases
        ],
        "builds": {build.prefix: _facts(build) for build in _builds(planned.phases)},
    }


def _numbers(entry: Entry) -> dict[str, Any]:
    return {
        "tokens": entry.tokens,
        "epochs": entry.epochs,
        "epochs_before": entry.before,
        "epoch_tokens": entry.epoch_tokens,
    }


def _facts(build: Build) -> Mapping[str, Any]:
    return {
        "tokens": build.tokens,
        "documents": build.documents,
        "tokenizer": build.tokenizer[0],
        "selection": build.selection,
        "sha256": build.content,
    }


def _builds(phases: Sequence[PhasePlan]) -> list[Build]:
    builds = [build for phase in phases for entry in phase.entries for build in entry.builds]
    return sorted({build.prefix: build for build in builds}.values(), key=lambda build: build.prefix)


def table_of(planned: Plan) -> Table:
    # Names and numbers stay whole in a narrow terminal; what has words between is what gives way.
    table = Table(title="Mixtures", title_justify="left", title_style="bold", box=box.SIMPLE, padding=0, pad_edge=True)
    for name in ("phase", "category"):
        table.add_column(name, no_wrap=True)
    for name in ("wanted", "tokens", "share", "epochs", "in all", "infilling", "builds"):
        table.add_column(name, justify="right", no_wrap=name not in ("wanted", "infilling", "builds"), overflow="fold")
    for phase in planned.phases:
        table.add_section()
        for number, entry in enumerate(phase.entries):
            missing = f" [red](+ {entry.missing} missing)[/red]" if entry.missing else ""
            table.add_row(
                phase.name if number == 0 else "",
                entry.category,
                _wanted(entry),
                *(_amounts(entry) if entry.tokens else "––––"),
                f"{entry.rate:g}",
                f"{len(entry.builds)}{missing}",
            )
        table.add_row("", "[bold]all[/bold]", "", f"[bold]{phase.tokens:,}[/bold]", "", "", "", "", "")
    return table


def _amounts(entry: Entry) -> list[str]:
    return [
        f"{entry.tokens:,}",
        f"{100 * entry.share:.1f} %",
        _passes(entry.epochs),
        _passes(entry.before + entry.epochs),
    ]


def _passes(epochs: float) -> str:
    return f"{epochs:.2f}" if epochs >= 0.1 else f"{epochs:.2g}"


def _wanted(entry: Entry) -> str:
    wanted = entry.wanted
    if wanted.epochs is not None:
        return f"{wanted.epochs:g} epochs"
    return "what is left" if wanted.share is None else f"{100 * wanted.share:g} %"
