"""From a step back to documents: trace names exactly those whose tokens the step read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from launch.cli import app
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import load_recipe, parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.lineage import Traced
from megatron_seed.data.loader import Batch
from megatron_seed.errors import SeedError
from megatron_seed.trace import trace_step
from megatron_seed.train import loop, metrics
from megatron_seed.train.run import train
from megatron_seed.train.state import Run

STEPS = 5
MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32}


def record(run_dir: Path, recipe: Recipe, step: int = 0, data_size: int = 2) -> None:
    """Of five steps, as a run writes it that begins after `step`."""
    begin = loop.segment_row(recipe, recipe.phases[0], Progress(step=step), data_size)
    steps = [{"kind": "train", "step": step + number} for number in range(1, STEPS + 1)]
    metrics.write(run_dir, begin, *steps)


@pytest.fixture
def recipe(tiny_builds: dict[str, str], tmp_path: Path) -> Recipe:
    phase = {
        "name": "p",
        "tokens": 10_000,
        "learning_rate": 1e-3,
        "blend": [{"name": name, "builds": prefix} for name, prefix in tiny_builds.items()],
        "sequence_length": 16,
        "global_batch_size": 4,
        "batch_ramp": {"start": 2, "increment": 2, "tokens": 64},
        "shuffle_block": 8,
    }
    model = {"preset": "seed_coder_tiny"}
    values = {"name": "n", "run_dir": str(tmp_path), "model": model, "phases": [phase]}
    return parse_recipe(values, "test")


def tokens_of(pieces: Iterable[Traced], builds: dict[str, str]) -> list[list[int]]:
    """The samples that traced pieces make up, read from the builds themselves."""
    opened = {name: IndexedTokens.open(prefix) for name, prefix in builds.items()}
    samples: dict[int, list[int]] = {}
    for piece in pieces:
        document = opened[piece.blend_source].document(piece.document)
        part = document[piece.first_token : piece.first_token + piece.tokens]
        samples.setdefault(piece.sample, []).extend(part.tolist())
    assert list(samples) == list(range(len(samples)))
    return list(samples.values())


def test_traced_pieces_are_the_tokens_that_a_restarted_run_trained_on(
    tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch grows, it dies after a checkpoint, goes on with another blend, and crosses into another phase."""
    trained: dict[int, list[list[int]]] = {}
    killed = False
    real = loop.guarded_step

    class Killed(Exception):
        pass

    def watched(run: Run, progress: Progress, batches: Sequence[Batch]) -> Any:
        nonlocal killed
        trained[progress.step + 1] = [row.tolist() for batch in batches for row in batch["tokens"]]
        if progress.step == 5 and not killed:
            killed = True
            raise Killed
        return real(run, progress, batches)

    monkeypatch.setattr(loop, "guarded_step", watched)
    blend = [{"name": name, "builds": prefix} for name, prefix in tiny_builds.items()]
    common = {"blend": blend, "learning_rate": 1e-3, "global_batch_size": 6, "micro_batch_size": 2, "shuffle_block": 5}
    ramp = {"start": 2, "increment": 2, "tokens": 300}
    phases = [
        {"name": "p", "tokens": 800, "sequence_length": 16, "batch_ramp": ramp, **common},
        {"name": "q", "tokens": 400, "sequence_length": 24, **common},
    ]
    path = tiny_recipe(phases=phases, model=MODEL, checkpoint={"every_steps": 4, "asynchronous": False})
    with pytest.raises(Killed):
        train(load_recipe(path))
    train(load_recipe(path, ["phases.0.blend.0.weight=3"]))
    assert sorted(trained) == list(range(1, len(trained) + 1))
    assert {len(rows) for rows in trained.values()} == {2, 4, 6}
    assert {len(row) for rows in trained.values() for row in rows} == {16, 24}
    for step, rows in trained.items():
        assert tokens_of(trace_step(path.with_suffix(""), step), tiny_builds) == rows


@pytest.mark.parametrize("step", [1, 3, 5])
def test_ranks_share_a_step_out(step: int, recipe: Recipe, tiny_builds: dict[str, str]) -> None:
    record(recipe.run_dir, recipe)
    whole = list(trace_step(recipe.run_dir, step))
    size = len(tokens_of(whole, tiny_builds))
    parts = [list(trace_step(recipe.run_dir, step, rank)) for rank in range(2)]
    assert sorted((*parts[0], *parts[1]), key=whole.index) == whole
    for rank, part in enumerate(parts):
        assert {piece.sample for piece in part} == set(range(rank, size, 2))
    with pytest.raises(SeedError, match="ran on 2 data-parallel ranks, 0 to 1; 2 is none"):
        list(trace_step(recipe.run_dir, step, 2))


@pytest.fixture
def provenance(tiny_builds: dict[str, str]) -> Iterator[Callable[[list[dict]], None]]:
    """Writes a provenance file of one of the builds, in several parts as `data build` does."""
    path = Path(f"{tiny_builds['train']}.provenance.parquet")

    def write(rows: list[dict]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)

    yield write
    path.unlink(missing_ok=True)


def rows(count: int) -> list[dict]:
    return [{"source": "s", "repository": "r", "path": f"{n}.py", "fim": n % 3 == 0} for n in range(count)]


def test_paths_come_from_the_provenance_where_there_is_one(recipe: Recipe, provenance: Callable) -> None:
    record(recipe.run_dir, recipe)
    provenance(rows(300))
    traced = [piece for step in range(1, STEPS + 1) for piece in trace_step(recipe.run_dir, step)]
    known = [piece for piece in traced if piece.blend_source == "train"]
    assert known and all(piece.path == f"{piece.document}.py" and piece.repository == "r" for piece in known)
    assert all(piece.fim is (piece.document % 3 == 0) for piece in known)
    unknown = [piece for piece in traced if piece.blend_source == "held_out"]
    assert unknown and all(piece.path is piece.repository is piece.source is piece.fim is None for piece in unknown)


def test_the_command_prints_a_line_for_each_document(recipe: Recipe, provenance: Callable) -> None:
    record(recipe.run_dir, recipe)
    provenance(rows(300))
    result = CliRunner().invoke(app, ["trace", str(recipe.run_dir), "--step", "3", "--rank", "1"])
    lines = [line.split("\t") for line in result.output.splitlines()]
    traced = list(trace_step(recipe.run_dir, 3, 1))
    assert [line[:2] for line in lines] == [[str(piece.sample), piece.blend_source] for piece in traced]
    for line, piece in zip(lines, traced, strict=True):
        known = ["s", "r", f"{piece.document}.py"]
        assert line[3:6] == (known if piece.blend_source == "train" else ["", "", f"document {piece.document}"])
        assert f"{piece.first_token}-{piece.first_token + piece.tokens}" in line


def test_a_provenance_file_that_is_not_of_the_build_is_refused(recipe: Recipe, provenance: Callable) -> None:
    record(recipe.run_dir, recipe)
    provenance(rows(1))
    with pytest.raises(SeedError, match=r"provenance\.parquet: has 1 rows, and none for document"):
        for step in range(1, STEPS + 1):
            list(trace_step(recipe.run_dir, step))


@pytest.mark.parametrize(("begin", "step"), [(0, 0), (0, STEPS + 1), (7, 7), (7, 13)])
def test_a_step_without_a_record_is_refused(begin: int, step: int, recipe: Recipe) -> None:
    """Also one that a branched run's parent did."""
    record(recipe.run_dir, recipe, begin)
    message = f"step {step} is not among the recorded steps {begin + 1} to {begin + STEPS}"
    with pytest.raises(SeedError, match=message):
        list(trace_step(recipe.run_dir, step))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="no record of a run"):
        list(trace_step(tmp_path, 1))
