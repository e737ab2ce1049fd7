"""A plan as tables for a terminal, and as plain values for machines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.plan.layouts import Candidate
from megatron_seed.plan.memory import RankMemory
from megatron_seed.plan.planner import CheckpointPlan, PhasePlan, Plan

_GIB = 2**30


def print_plan(plan: Plan, console: Console) -> None:
    console.print(
        f"{plan.recipe} on {plan.gpus} {plan.gpu.name} ({plan.nodes} node{'s' if plan.nodes > 1 else ''})\n",
        highlight=False,
    )
    memory = [_memory(plan)] if any(phase.own for phase in plan.phases) else []
    for table in [_model(plan), *memory, _time(plan), *_layout_tables(plan), _checkpoints(plan)]:
        console.print(table)
        console.print()
    for problem in dict.fromkeys(_problems(plan)):
        console.print(problem, style="bold", markup=False, highlight=False, soft_wrap=True)


def _problems(plan: Plan) -> Iterator[str]:
    for phase in plan.phases:
        if phase.problem:
            yield f"The recipe's own layout cannot run on {plan.gpus} GPUs: {phase.problem}"
        elif not phase.own.fits:
            yield (
                f"The recipe's own layout does not fit in phase {phase.name}: {phase.own.memory.total / _GIB:.1f} GiB, "
                f"of {plan.usable_bytes_per_gpu / _GIB:.1f} that a GPU can give."
            )
        if not phase.best:
            yield f"No layout of those searched divides {plan.gpus} GPUs and the batch of phase {phase.name}."


def as_values(plan: Plan) -> dict[str, Any]:
    """Everything that the tables show and more, in bytes and seconds, as JSON can hold it."""
    values = _plain(plan)
    values["days_with_failures"] = _plain(plan.days_with_failures)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, LayoutConfig):
        return value.model_dump(mode="json")
    if isinstance(value, RankMemory):
        return {**_fields(value), "total": value.total}
    if isinstance(value, Candidate):
        return {**_fields(value), "step_seconds": value.time.total}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _count(number: float) -> str:
    return f"{number / 1e9:,.3f} B" if number >= 1e9 else f"{number / 1e6:,.1f} M"


def _digits(number: float) -> str:
    return f"{number:,.2f}" if number >= 1.0 else f"{number:.2g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _model(plan: Plan) -> Table:
    model = plan.model
    table = _table("Model", "parameters", "")
    table.add_row("in all", _count(model.parameters))
    table.add_row("embedding and head", _count(model.embedding_parameters))
    table.add_row(f"each of {model.num_layers} layers", _count(model.layer_parameters))
    return table


def _memory(plan: Plan) -> Table:
    owns = [phase.own for phase in plan.phases if phase.own]
    columns = [phase.name for phase in plan.phases if phase.own]
    table = _table("Memory of the fullest rank, the recipe's own layout, GiB", "kind", *columns)
    for name in dict.fromkeys(name for own in owns for name, _ in _kinds(own.memory)):
        amounts = [dict(_kinds(own.memory)).get(name, 0.0) for own in owns]
        if any(amounts):
            table.add_row(name, *(f"{amount / _GIB:,.2f}" for amount in amounts))
    table.add_row("in all", *(f"{own.memory.total / _GIB:,.2f}" for own in owns), style="bold")
    table.add_row("when", *(own.memory.moment for own in owns))
    table.add_row("on pipeline stage", *(f"{own.memory.stage + 1} of {own.layout.pipeline_parallel}" for own in owns))
    table.add_row("a GPU can give", *(f"{plan.usable_bytes_per_gpu / _GIB:,.2f}" for _ in owns))
    return table


def _kinds(memory: RankMemory) -> Iterator[tuple[str, float]]:
    for name, amount in memory.by_kind().items():
        if name == "activations":
            yield from ((f"activations: {part}", size) for part, size in memory.activations.items())
        else:
            yield name, amount


def _time(plan: Plan) -> Table:
    title = f"Operations and days at MFU {plan.mfu:.2f} (causal), without failures"
    table = _table(title, "phase", "tokens", "steps", "FLOPs/token causal", "full", "FLOPs (causal)", "days")
    for phase in plan.phases:
        table.add_row(
            phase.name,
            _count(phase.tokens),
            f"{phase.steps:,}",
            f"{phase.flops_per_token_causal:.3e}",
            f"{phase.flops_per_token_full:.3e}",
            f"{phase.flops_causal:.3e}",
            _digits(phase.days),
        )
    flops = sum(phase.flops_causal for phase in plan.phases)
    tokens = sum(phase.tokens for phase in plan.phases)
    steps = sum(phase.steps for phase in plan.phases)
    days = _digits(plan.days)
    table.add_row("in all", _count(tokens), f"{steps:,}", "", "", f"{flops:.3e}", days, style="bold")
    return table


def _layout_tables(plan: Plan) -> Iterator[Table]:
    """One for phases that have the same layouts."""
    alike: dict[tuple[object, ...], list[PhasePlan]] = {}
    for phase in plan.phases:
        alike.setdefault((repr(phase.own), repr(phase.best)), []).append(phase)
    for phases in alike.values():
        if phases[0].own or phases[0].best:
            yield _layouts(phases[0], ", ".join(phase.name for phase in phases))


def _layouts(phase: PhasePlan, names: str) -> Table:
    table = _table(
        f"Layouts of {names}: the recipe's, then the fastest found (! does not fit)",
        "layout", "micro-batch", "recompute", "GiB", "step, s", "MFU", "bubble", "TP", "DP",
    )  # fmt: skip
    if phase.own:
        _candidate(table, phase.own, "recipe: ")
    for candidate in phase.best:
        _candidate(table, candidate, "")
    return table


def _candidate(table: Table, candidate: Candidate, prefix: str) -> None:
    time = candidate.time
    table.add_row(
        f"{prefix}{_layout_name(candidate)}",
        f"{candidate.micro_batches} x {candidate.micro_batch_size}",
        candidate.layout.recompute,
        f"{candidate.memory.total / _GIB:.1f}{'' if candidate.fits else ' !'}",
        _digits(time.total),
        f"{candidate.mfu:.3f}",
        *(f"{seconds / time.total:.0%}" for seconds in (time.bubble, time.tensor_parallel, time.data_parallel)),
    )


def _layout_name(candidate: Candidate) -> str:
    layout = candidate.layout
    sizes = (
        ("TP", layout.tensor_parallel),
        ("PP", layout.pipeline_parallel),
        ("VPP", layout.virtual_pipeline),
        ("CP", layout.context_parallel),
        ("DP", candidate.replicas),
    )
    parts = [f"{name}{size}" for name, size in sizes if size > 1 or name == "TP"]
    return " ".join([*parts, *(["SP"] if layout.sequence_parallel else [])])


def _checkpoints(plan: Plan) -> Table:
    checkpoint = plan.checkpoint
    table = _table("Checkpoints and failures", "what", "")
    for name, value in _checkpoint_rows(plan, checkpoint):
        table.add_row(name, value)
    return table


def _checkpoint_rows(plan: Plan, checkpoint: CheckpointPlan) -> Iterator[tuple[str, str]]:
    costs = checkpoint.reliability
    yield "size of a checkpoint", f"{_digits(checkpoint.size_bytes / 1e9)} GB"
    yield (
        "written by each node" + (", and copied in its memory" if checkpoint.asynchronous else ""),
        f"{_digits(checkpoint.bytes_per_node / 1e9)} GB",
    )
    how = "asynchronous" if checkpoint.asynchronous else "it waits"
    yield f"pause of training per save ({how})", f"{costs.pause_s:,.2f} s"
    yield "until it is on disk", f"{costs.write_s if checkpoint.asynchronous else costs.pause_s:,.1f} s"
    yield "mean time between failures: node", f"{plan.assumptions.mtbf_node_hours:,.0f} h"
    yield "mean time between failures: job", f"{costs.mtbf_s / 3600:,.1f} h"
    yield "restart", f"{costs.restart_s / 60:,.1f} min"
    yield "best interval (Young)", f"{checkpoint.interval_young_s / 60:,.1f} min"
    steps = ", ".join(f"{steps:,}" for steps in checkpoint.interval_steps)
    yield "best interval (Daly)", f"{checkpoint.interval_daly_s / 60:,.1f} min"
    yield "in steps of each phase", steps
    yield "goodput at that interval", f"{checkpoint.goodput:.2%}"
    yield f"goodput at the recipe's every_steps {checkpoint.every_steps}", f"{checkpoint.own_goodput:.2%}"
    yield "days, with failures", _digits(plan.days_with_failures)
