"""What is decontaminated against: the user's benchmark files, or a few problems of our own with one planted.

HumanEval and the like do not come with this program. So that a run without them shows what happens, the solution of one
of our problems is put into the corpus as a repository called `planted`, and is found there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from data_prep.shards import write_atomic

OWN = Path(__file__).parent / "problems.jsonl"
PLANTED = "planted"


def benchmark_files(given: tuple[Path, ...]) -> list[str]:
    return [str(path.resolve()) for path in given or (OWN,)]


def benchmarks_digest(given: tuple[Path, ...]) -> str:
    """Of what stands in the files; DataError for one that is no JSONL file."""
    from data_prep.annotators.decontamination import Decontamination

    inputs = Decontamination(benchmarks=tuple(benchmark_files(given))).inputs()
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def plant(into: Path) -> str:
    """Writes the first of our problems, solved, into a repository below `into`; returns its name."""
    problem = json.loads(OWN.read_text(encoding="utf-8").splitlines()[0])
    text = f'"""Exercises of an evening."""\n\n\n{problem["prompt"]}{problem["canonical_solution"]}'
    path = into / PLANTED / "exercises.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, lambda stream: stream.write(text.encode()))
    os.utime(path, ns=(0, 0))  # so that an import finds the same file in every run
    return problem["task_id"]
