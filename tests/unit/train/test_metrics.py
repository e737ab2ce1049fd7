"""The run's own record: appended row by row, and rewound to the step that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.train import metrics

ROWS = [{"kind": "train", "step": step, "loss": 1.0 / step} for step in range(1, 8)]


def record(run_dir: Path, rows: list[dict]) -> bytes:
    path = run_dir / metrics.NAME
    path.unlink(missing_ok=True)
    for row in rows:
        metrics.write(run_dir, row)
    return path.read_bytes()


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert list(metrics.read(tmp_path)) == []
    record(tmp_path, ROWS)
    assert list(metrics.read(tmp_path)) == ROWS
    assert [json.loads(line) for line in (tmp_path / metrics.NAME).read_text().splitlines()] == ROWS


@pytest.mark.parametrize("step", [1, 4, 7, 100])
def test_rewinding_forgets_what_came_after_a_step(step: int, tmp_path: Path) -> None:
    evaluations = [{"kind": "evaluation", "step": at, "loss": 0.5} for at in (0, 4)]
    record(tmp_path, [evaluations[0], *ROWS[:4], evaluations[1], *ROWS[4:]])
    metrics.rewind(tmp_path, step)
    kept = list(metrics.read(tmp_path))
    assert [row for row in kept if row["kind"] == "train"] == ROWS[:step]
    assert [row for row in kept if row["kind"] == "evaluation"] == evaluations[: 1 + (step >= 4)]


def test_a_run_that_begins_anew_has_no_past(tmp_path: Path) -> None:
    record(tmp_path, [{"kind": "evaluation", "step": 0, "loss": 4.8}, *ROWS])
    metrics.rewind(tmp_path, 0)
    assert list(metrics.read(tmp_path)) == []


def test_rewinding_a_run_without_a_record_makes_none(tmp_path: Path) -> None:
    metrics.rewind(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


@given(cut=st.integers(1, 400), step=st.integers(1, 8))
def test_a_line_that_a_kill_cut_short_is_left_out_and_does_not_spoil_the_next(
    cut: int, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = tmp_path_factory.getbasetemp()
    content = record(run_dir, ROWS)
    cut = min(cut, len(content))
    (run_dir / metrics.NAME).write_bytes(content[:-cut])
    # A row is whole once its last brace is there, with or without the end of its line.
    lines = [json.dumps(row).encode() for row in ROWS]
    ends = [content.index(line) + len(line) for line in lines]
    whole = [row for row, end in zip(ROWS, ends, strict=True) if end <= len(content) - cut]
    assert list(metrics.read(run_dir)) == whole
    metrics.rewind(run_dir, step)
    metrics.write(run_dir, {"kind": "train", "step": step + 1})
    assert list(metrics.read(run_dir)) == [*whole[:step], {"kind": "train", "step": step + 1}]
