"""`metrics.jsonl`: one JSON object a line, the run's own record of its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_seed.checkpoint.manifest import write_text

NAME = "metrics.jsonl"
Row = dict[str, Any]
"""Has `kind` and `step`; the rest depends on the kind."""


def write(run_dir: Path, *rows: Row) -> None:
    """Append rows. What is not a finite number becomes null, for JSON knows no other."""
    lines = [json.dumps({name: _plain(value) for name, value in row.items()}, allow_nan=False) + "\n" for row in rows]
    left = "".join(lines).encode()
    with (run_dir / NAME).open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)  # no half of a row for the next one to follow
            raise


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(run_dir: Path) -> Iterator[Row]:
    """Rows in order; a last line that a kill cut short is left out."""
    path = run_dir / NAME
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def rewind(run_dir: Path, step: int) -> None:
    """Forget what was recorded after `step`, but for events: those steps are about to be run again. At step 0 nothing
    was done yet."""
    if (run_dir / NAME).is_file():
        kept = [json.dumps(row) + "\n" for row in read(run_dir) if row["kind"] == "event" or 0 < step >= row["step"]]
        write_text(run_dir / NAME, "".join(kept))
