"""What a run tells beside its losses: per byte of text, in traces, and to wandb with and without a network."""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_seed.config.load import load_recipe
from megatron_seed.data.declare import Vocabulary, declare
from megatron_seed.data.manifest import read_manifest
from megatron_seed.errors import SeedError
from megatron_seed.train import metrics

MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}
STEP = 4 * 16


@pytest.fixture
def run(tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]) -> Callable[..., Path]:
    """Trains so many steps; returns the run folder."""

    def train(steps: int, *overrides: str, builds: dict[str, str] = tiny_builds, **changes: Any) -> Path:
        from megatron_seed.train.run import train

        phase = {
            "name": "main",
            "tokens": steps * STEP,
            "learning_rate": 3e-3,
            "blend": [{"name": name, "builds": prefix, "weight": 1 + n} for n, (name, prefix) in
                      enumerate(builds.items())],
            "sequence_length": 16,
            "global_batch_size": 4,
        }  # fmt: skip
        recipe = load_recipe(tiny_recipe("run", **{"model": MODEL, "phases": [phase], **changes}), overrides)
        train(recipe)
        return recipe.run_dir

    return train


def rows(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in metrics.read(run_dir) if row["kind"] == kind]


def write_text(prefix: Path, tokenizer: Path, seed: int) -> str:
    """A declared build of bytes, with a special token that stands for none after each document."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    generator = np.random.default_rng(seed)
    for _ in range(60):
        text = generator.integers(130, 383, generator.integers(1, 40 * (1 + seed)))
        builder.add_item(torch.from_numpy(np.append(text, 0)))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    declare([prefix], Vocabulary.of_tokenizer(tokenizer))
    return str(prefix)


def test_losses_are_told_per_byte_of_text_too(run: Callable[..., Path], tokenizer_dir: Path, tmp_path: Path) -> None:
    builds = {name: write_text(tmp_path / name, tokenizer_dir, seed) for seed, name in enumerate(("short", "long"))}
    held_out = {"held_out": [{"name": "unseen", "builds": builds["short"]}]}
    model = {**MODEL, "vocab_size": 383}
    run_dir = run(2, builds=builds, model=model, tokenizer=str(tokenizer_dir), evaluation=held_out)
    short, long = (manifest.size_bytes / manifest.tokens for manifest in map(read_manifest, builds.values()))
    assert short < long < 1
    trained, evaluated = rows(run_dir, "train"), rows(run_dir, "evaluation")
    assert len(trained) == len(evaluated) == 2
    for row in trained:  # a third of the tokens is from the first source
        assert row["bits_per_byte"] == pytest.approx(row["loss"] / math.log(2) / ((short + 2 * long) / 3))
    for row in evaluated:  # its windows hold all of the build but for a rest
        assert row["bits_per_byte"] == pytest.approx(row["loss"] / math.log(2) / short, rel=0.01)


def test_a_profile_of_some_steps_is_a_trace(run: Callable[..., Path]) -> None:
    (path,) = (run(4, "profile.steps=[2, 3]") / "profile").iterdir()
    assert path.name == "steps-2-3-rank-0.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert "aten::mm" in names and "[memory]" in names
    assert names.count("Optimizer.step#AdamW.step") == 2, "two steps, and no more"


def test_a_profile_begins_where_a_run_goes_on_and_says_when_it_comes_too_late(
    run: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    run(2)
    run_dir = run(4, "profile.steps=[2, 9]")
    assert [path.name for path in (run_dir / "profile").iterdir()] == ["steps-3-4-rank-0.json.gz"]
    with caplog.at_level(logging.WARNING):
        run(6, "profile.steps=[2, 4]")
    assert "no profile: step 4 is done, steps 2 to 4 will not come" in caplog.text


def test_a_profile_of_a_rank_that_is_not_there_is_refused(run: Callable[..., Path]) -> None:
    with pytest.raises(SeedError, match=r"profile\.ranks names rank 3; this job has ranks 0 to 0"):
        run(2, "profile.steps=[1, 2]", "profile.ranks=[0, 3]")
