"""Runs on one GPU, on tokens of real text."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

BYTES = 256
"""Tokens are bytes; FP8 products want dimensions that divide by 16."""
LENGTH, ROWS = 256, 8


@pytest.fixture(scope="session")
def source_build(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prefix of a build of Python's standard library: a document for each of its modules, a token for each byte."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    from megatron_seed.data.declare import Vocabulary, declare

    prefix = str(tmp_path_factory.mktemp("source") / "library")
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if content := path.read_bytes():
            builder.add_item(torch.from_numpy(np.frombuffer(content, np.uint8).astype(np.uint16)))
            builder.end_document()
    builder.finalize(f"{prefix}.idx")
    declare([prefix], Vocabulary.of_size(BYTES))
    return prefix


@pytest.fixture
def source_recipe(tiny_recipe: Callable[..., Path], source_build: str) -> Callable[..., Path]:
    """Writes a recipe in bf16 for the 10M model on real text, `steps` long; other changes are top-level keys."""

    def write(name: str, steps: int = 40, preset: str = "seed_coder_10m", **changes: object) -> Path:
        phase = {
            "name": "main",
            "tokens": steps * LENGTH * ROWS,
            "learning_rate": 1e-3,
            "blend": [{"name": "library", "builds": source_build}],
            "sequence_length": LENGTH,
            "global_batch_size": ROWS,
        }
        model = {"preset": preset, "vocab_size": BYTES, "max_sequence_length": 1024}
        return tiny_recipe(name, model=model, **{"precision": "bf16", "phases": [phase], **changes})

    return write
