"""A run of `quickstart --full` small enough for tests, as a user would start it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pygit2

STEPS = {"web": 12, "code": 24, "high_quality": 8, "long_context": 6}
EVERY_STEPS = 11  # within each phase at least once, and no divisor of all steps: the end is evaluated for its own sake
_MODEL = (
    "model.num_layers=2",
    "model.hidden_size=64",
    "model.ffn_hidden_size=128",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    "model.vocab_size=1024",
    "model.max_sequence_length=4096",
)
_LENGTHS = (128, 128, 256, 1024)
_BATCHES = (8, 8, 4, 1)


def settings() -> Iterable[str]:
    yield from _MODEL
    for number, (steps, length, batch) in enumerate(zip(STEPS.values(), _LENGTHS, _BATCHES, strict=True)):
        yield f"phases.{number}.sequence_length={length}"
        yield f"phases.{number}.global_batch_size={batch}"
        yield f"phases.{number}.tokens={steps * length * batch}"
    yield "phases.0.learning_rate.warmup_tokens=4096"
    yield from (f"evaluation.every_steps={EVERY_STEPS}", "evaluation.max_sequences=16", "checkpoint.every_steps=4")
    yield from ("logging.tensorboard=false", 'logging.wandb="off"')


def full_command(corpus: Path, history: Path, run_dir: Path) -> list[str]:
    changes = [word for value in settings() for word in ("--set", value)]
    sources = ["--corpus", str(corpus), "--history", str(history), "--pages", "500", "--commits", "60"]
    return [sys.executable, "-m", "launch", "quickstart", "--full", "--run-dir", str(run_dir), *sources, *changes]


def write_history(folder: Path, code: Path, commits: int = 60) -> Path:
    """A repository to which the smallest files of `code` are added, each with a change to the one before."""
    made = pygit2.init_repository(str(folder), initial_head="main")
    parents: list = []
    files = sorted((path.stat().st_size, path) for path in code.rglob("*.py"))
    files = [path for size, path in files if size > 200][:commits]
    for number, path in enumerate(files):
        (folder / f"part_{number}.py").write_bytes(path.read_bytes())
        if number:
            earlier = folder / f"part_{number - 1}.py"
            earlier.write_bytes(earlier.read_bytes() + f"\n\nPART = {number}\n".encode())
        made.index.add_all()
        author = pygit2.Signature("A", "a@example.invalid", 1_600_000_000 + 86_400 * number, 0)
        message = f"Add {path.name} as a part, and number the one before"
        parents = [made.create_commit("HEAD", author, author, message, made.index.write_tree(), parents)]
    made.index.write()
    return folder
