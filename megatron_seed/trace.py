"""From a step of a run back to the files it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_seed.config.schema import PhaseConfig
from megatron_seed.data.blend import BlendMemo
from megatron_seed.data.cursor import Cursor
from megatron_seed.data.lineage import Traced, documents_of
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.train import metrics


def trace_step(run_dir: Path, step: int, rank: int | None = None) -> Iterator[Traced]:
    """The documents of a step (from 1), in the order of its samples, which are numbered from 0 within the step.

    With `rank` those of one data-parallel rank. Raises SeedError for a step or a rank that the run has no record of.
    """
    segment = _segment_of(run_dir, step)
    ranks = segment["data_parallel"]
    if rank is not None and not 0 <= rank < ranks:
        raise SeedError(f"{run_dir}: step {step} ran on {ranks} data-parallel ranks, 0 to {ranks - 1}; {rank} is none")
    phase = PhaseConfig.model_validate(segment["phase"])
    first, size = _samples_of(segment, phase, step)
    cursors = {name: Cursor.model_validate(cursor) for name, cursor in segment["cursors"].items()}
    memo = segment["blend"] and BlendMemo(segment["blend"][0], tuple(segment["blend"][1]))
    data = PhaseData.open(phase, segment["seed"], None, cursors, memo)
    numbers = [n for n in range(size) if rank is None or n // phase.micro_batch_size % ranks == rank]
    for traced in documents_of(data, (first + number for number in numbers)):
        yield dataclasses.replace(traced, sample=traced.sample - first)


def _segment_of(run_dir: Path, step: int) -> dict[str, Any]:
    """The record of the segment that a step belongs to."""
    rows = [row for row in metrics.read(run_dir) if row["kind"] in ("segment", "train")]
    segments = [row for row in rows if row["kind"] == "segment"]
    if not segments:
        raise SeedError(f"{run_dir / metrics.NAME}: no record of a run")
    # A branched run begins behind the steps of its parent.
    first = min(row["step"] for row in segments) + 1
    last = max((row["step"] for row in rows if row["kind"] == "train"), default=0)
    if not first <= step <= last:
        raise SeedError(f"{run_dir}: step {step} is not among the recorded steps {first} to {last}")
    return [row for row in segments if row["step"] < step][-1]


def _samples_of(segment: dict[str, Any], phase: PhaseConfig, step: int) -> tuple[int, int]:
    """First sample of a step, counted in its segment, and how many it has."""
    tokens, first = segment["phase_tokens"], segment["segment_samples"]
    for _ in range(step - segment["step"] - 1):
        size = phase.batch_size_at(tokens)
        tokens, first = tokens + size * phase.sequence_length, first + size
    return first, phase.batch_size_at(tokens)
