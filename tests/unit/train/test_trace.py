"""From a step back to documents: trace names exactly those whose tokens the step read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.trace import trace_step
from megatron_seed.train import metrics
from megatron_seed.train.loop import segment_row

STEPS = 5


@pytest.fixture
def recipe(tiny_builds: dict[str, str], tmp_path: Path) -> Recipe:
    """A recipe whose run folder has the record of five steps, two of them in the ramp."""
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
    recipe = parse_recipe(values, "test")
    metrics.write(tmp_path, segment_row(recipe, recipe.phases[0], Progress()))
    for step in range(1, STEPS + 1):
        metrics.write(tmp_path, {"kind": "train", "step": step})
    return recipe


@pytest.mark.parametrize("step", [1, 3, 5])
def test_traced_pieces_are_the_tokens_of_the_step(step: int, recipe: Recipe, tiny_builds: dict[str, str]) -> None:
    opened = {name: IndexedTokens.open(prefix) for name, prefix in tiny_builds.items()}
    sizes = [2, 2, 4, 4, 4]
    data = PhaseData.open(recipe.phases[0], recipe.seed, None, {})
    samples: dict[int, list[int]] = {}
    for piece in trace_step(recipe.run_dir, step):
        document = opened[piece.blend_source].document(piece.document)
        part = document[piece.first_token : piece.first_token + piece.tokens]
        samples.setdefault(piece.sample, []).extend(part.tolist())
    expected = [data.sample(sum(sizes[: step - 1]) + n)[:-1].tolist() for n in range(sizes[step - 1])]
    assert [samples[n] for n in range(sizes[step - 1])] == expected


def test_ranks_share_a_step_out(recipe: Recipe) -> None:
    whole = list(trace_step(recipe.run_dir, 4))
    parts = [list(trace_step(recipe.run_dir, 4, rank, 2)) for rank in range(2)]
    assert sorted((*parts[0], *parts[1]), key=whole.index) == whole
    assert {piece.sample for piece in parts[1]} == {1, 3}


def test_paths_come_from_the_provenance(recipe: Recipe, tiny_builds: dict[str, str]) -> None:
    prefix = Path(tiny_builds["train"])
    rows = [{"source": "s", "repository": "r", "path": f"{n}.py", "fim": n % 2 == 0} for n in range(300)]
    provenance = prefix.with_name(f"{prefix.name}.provenance.parquet")
    pq.write_table(pa.Table.from_pylist(rows), provenance)
    try:
        traced = [piece for piece in trace_step(recipe.run_dir, 2) if piece.blend_source == "train"]
    finally:
        provenance.unlink()
    assert traced and all(piece.path == f"{piece.document}.py" and piece.repository == "r" for piece in traced)


@pytest.mark.parametrize("step", [0, STEPS + 1])
def test_a_step_that_was_not_reached_is_refused(step: int, recipe: Recipe) -> None:
    with pytest.raises(SeedError, match=f"step {step} is not among the recorded steps 1 to 5"):
        list(trace_step(recipe.run_dir, step))
