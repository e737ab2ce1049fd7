"""`metrics.jsonl`: one JSON object a line, the run's own record of its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_seed.checkpoint.manifest import write_text

NAME = "metrics.jsonl"


def write(run_dir: Path, row: dict[str, Any]) -> None:
    with (run_dir / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(run_dir: Path) -> Iterator[dict[str, Any]]:
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
    """Forget what was recorded after `step`: those steps are about to be run again. At step 0 nothing was done yet."""
    if (run_dir / NAME).is_file():
        kept = [json.dumps(row) + "\n" for row in read(run_dir) if 0 < step >= row["step"]]
        write_text(run_dir / NAME, "".join(kept))
