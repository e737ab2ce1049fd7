"""A run folder as compared: its settings and its rows, as far as they are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.model.arithmetic import flops_per_token, parameter_count
from megatron_seed.train import metrics

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says. Rows come by step, each step once, and have finite `tokens`."""

    label: str
    path: Path
    config: Mapping[str, Any]
    """Resolved settings, empty when they cannot be read."""
    model: ModelConfig | None
    train: Sequence[Row] = ()
    evaluation: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """By held-out source."""
    events: Sequence[Row] = ()
    remarks: Sequence[str] = ()
    """What is missing."""

    @property
    def parameters(self) -> int | None:
        return parameter_count(self.model) if self.model else None

    @property
    def budget_tokens(self) -> int | None:
        """Of all phases; None where tokens also count what a parent run consumed."""
        if self.config.get("start_from") or not self.config.get("phases"):
            return None
        tokens = [phase.get("tokens") for phase in self.config["phases"]]
        return sum(tokens) if all(isinstance(number, int) for number in tokens) else None

    @cached_property
    def spent_flops(self) -> list[tuple[float, float]]:
        """(tokens, FLOPs) at every training row: tokens x FLOPs per token (causal) of the phase they belong to.

        What was consumed before the first row counts as its phase. Empty when the model's shape is not known.
        """
        if self.model is None:
            return []
        lengths = {phase.get("name"): phase.get("sequence_length") for phase in self.config.get("phases", ())}
        found, before, flops = [], 0.0, 0.0
        for row in self.train:
            length = lengths.get(row.get("phase"))
            if not isinstance(length, int):
                return []
            flops += (row["tokens"] - before) * flops_per_token(self.model, length)
            before = row["tokens"]
            found.append((before, flops))
        return found


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Every run, labelled so that no two are alike. SeedError names what is no run folder at all."""
    unique = list(dict.fromkeys(path.resolve() for path in paths))
    configs = [_config(path) for path in unique]
    labels = _labels(unique, [config for config, _ in configs])
    return [_read(path, *config, label) for path, config, label in zip(unique, configs, labels, strict=True)]


def _read(path: Path, config: dict[str, Any], remarks: list[str], label: str) -> RunRecord:
    rows, problem = _rows(path)
    if not config and not rows:
        raise SeedError(f"{path}: no run folder: it has neither a readable config.yaml nor rows in {metrics.NAME}")
    remarks = [*remarks, *([problem] if problem else [])]
    model = _model(config)
    if config and model is None:
        remarks.append("the model's shape cannot be read: no FLOPs")
    train = _by_step(row for row in rows if row.get("kind") == "train")
    if not train:
        remarks.append("no training steps recorded yet")
    evaluation: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("kind") == "evaluation" and is_finite(row.get("loss")):
            evaluation.setdefault(str(row.get("source")), []).append(row)
    return RunRecord(
        label=label,
        path=path,
        config=config,
        model=model,
        train=train,
        evaluation={source: _by_step(found) for source, found in evaluation.items()},
        events=[row for row in rows if row.get("kind") == "event"],
        remarks=remarks,
    )


def _config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings with today's defaults for what an older run does not know; as they stand where that fails."""
    file = path / "config.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, [f"config.yaml cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(values, dict):
        return {}, ["config.yaml holds no settings"]
    try:
        return parse_recipe(values, str(file)).model_dump(mode="json"), []
    except SeedError:
        phases = values.get("phases")
        values["phases"] = [p for p in phases if isinstance(p, dict)] if isinstance(phases, list) else []
        return values, ["config.yaml is of another version: settings are shown as they stand"]


def _model(config: Mapping[str, Any]) -> ModelConfig | None:
    values = config.get("model")
    if not isinstance(values, Mapping):
        return None
    try:
        return ModelConfig.model_validate({name: values[name] for name in values if name in ModelConfig.model_fields})
    except ValidationError:
        return None


def _rows(path: Path) -> tuple[list[Row], str | None]:
    try:
        rows = [row for row in metrics.read(path) if isinstance(row, dict)]
    except (OSError, UnicodeDecodeError) as error:
        return [], f"{metrics.NAME} cannot be read: {error}"
    return rows, None if (path / metrics.NAME).is_file() else f"no {metrics.NAME}"


def _by_step(rows: Any) -> list[Row]:
    """The last row of each step, in order, without those that say no step or tokens."""
    found = {row["step"]: row for row in rows if is_finite(row.get("step")) and is_finite(row.get("tokens"))}
    return [found[step] for step in sorted(found)]


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _labels(paths: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The recipe's name; where runs share it, what sets their paths apart."""
    names = [str(config.get("name") or path.name) for path, config in zip(paths, configs, strict=True)]
    parts = 1
    while len(set(names)) < len(names) and parts <= max(len(path.parts) for path in paths):
        ends = ["/".join(path.parts[-parts:]) for path in paths]
        names = [end if names.count(name) > 1 else name for name, end in zip(names, ends, strict=True)]
        parts += 1
    return names
