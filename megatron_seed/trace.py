"""From a step of a run back to the files it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_seed.config.schema import PhaseConfig
from megatron_seed.data.blend import BlendMemo
from megatron_seed.data.cursor import Cursor
from megatron_seed.data.loader import PhaseData
from megatron_seed.data.stream import Piece
from megatron_seed.errors import SeedError
from megatron_seed.train import metrics


@dataclass(frozen=True)
class Traced:
    """A run of tokens in one sample of a step."""

    sample: int
    """Number within the step; data-parallel rank and micro-batch follow from it."""
    blend_source: str
    epoch: int
    document: int
    """Its number in the build."""
    first_token: int
    tokens: int
    fim: bool | None = None
    source: str | None = None
    repository: str | None = None
    path: str | None = None
    """Where the text came from; None for a build without provenance."""


def trace_step(run_dir: Path, step: int, rank: int | None = None, data_size: int = 1) -> Iterator[Traced]:
    """The documents of a step (from 1), in the order of its samples; with `rank` those of one data-parallel rank.

    Raises SeedError for a step that the run has not reached.
    """
    rows = [row for row in metrics.read(run_dir) if row["kind"] in ("segment", "train")]
    if not rows:
        raise SeedError(f"{run_dir / metrics.NAME}: no record of a run")
    last = max((row["step"] for row in rows if row["kind"] == "train"), default=0)
    if not 1 <= step <= last:
        raise SeedError(f"{run_dir}: step {step} is not among the recorded steps 1 to {last}")
    segment = [row for row in rows if row["kind"] == "segment" and row["step"] < step][-1]
    phase = PhaseConfig.model_validate(segment["phase"])
    first, size = _samples_of(segment, phase, step)
    cursors = {name: Cursor.model_validate(cursor) for name, cursor in segment["cursors"].items()}
    memo = segment["blend"] and BlendMemo(segment["blend"][0], tuple(segment["blend"][1]))
    data = PhaseData.open(phase, segment["seed"], None, cursors, memo)
    provenance = _Provenance(phase)
    for number in range(size):
        if rank is not None and number // phase.micro_batch_size % data_size != rank:
            continue
        stream, pieces = data.pieces(first + number)
        for piece in pieces:
            yield _traced(number, stream.name, piece, provenance)


def _samples_of(segment: dict[str, Any], phase: PhaseConfig, step: int) -> tuple[int, int]:
    """First sample of a step, counted in its segment, and how many it has."""
    tokens, first = segment["phase_tokens"], segment["segment_samples"]
    for _ in range(step - segment["step"] - 1):
        size = phase.batch_size_at(tokens)
        tokens, first = tokens + size * phase.sequence_length, first + size
    return first, phase.batch_size_at(tokens)


class _Provenance:
    """Rows of the builds' provenance files, read once each."""

    def __init__(self, phase: PhaseConfig) -> None:
        self.builds = {source.name: source.builds for source in phase.blend}
        self.tables: dict[str, Any] = {}

    def row(self, source: str, piece: Piece) -> dict[str, Any]:
        builds = self.builds[source]
        prefix = builds[piece.epoch % len(builds)]
        if prefix not in self.tables:
            path = Path(f"{prefix}.provenance.parquet")
            self.tables[prefix] = _read_table(path) if path.is_file() else None
        table = self.tables[prefix]
        return table.slice(piece.document, 1).to_pylist()[0] if table is not None else {}


def _read_table(path: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise SeedError(f"{path}: reading it needs pyarrow: pip install 'megatron-seed[data]'") from None
    return pq.read_table(path, columns=["source", "repository", "path", "fim"])


def _traced(number: int, source: str, piece: Piece, provenance: _Provenance) -> Traced:
    found = provenance.row(source, piece)
    return Traced(number, source, piece.epoch, piece.document, piece.first, piece.tokens, **found)
