"""A run on builds of another tokenizer is refused before it starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.held_out import check_data
from megatron_seed.errors import SeedError
from tokenizer.encode import Encoder


def write_tokenizer(folder: Path, words: str) -> str:
    """A tokenizer of a few words; returns its digest."""
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate(words.split())}
    Tokenizer(models.WordLevel(vocabulary, unk_token=words.split()[0])).save(str(folder / "tokenizer.json"))
    return Encoder.load(folder).digest


@pytest.fixture
def recipe(tiny_builds: dict[str, str], tmp_path: Path) -> Recipe:
    for ending in ("bin", "idx"):
        shutil.copy(f"{tiny_builds['train']}.{ending}", tmp_path / f"build.{ending}")
    digest = write_tokenizer(tmp_path / "tokenizer", "unknown one two")
    manifest = json.loads(Path(f"{tiny_builds['train']}.manifest.json").read_text())
    manifest["tokenizer"]["digest"] = digest
    (tmp_path / "build.manifest.json").write_text(json.dumps(manifest))
    phase = {
        "name": "p",
        "tokens": 100,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": str(tmp_path / "build")}],
        "sequence_length": 8,
        "global_batch_size": 1,
    }
    values = {"name": "n", "run_dir": str(tmp_path), "model": {"preset": "seed_coder_tiny"}, "phases": [phase]}
    return parse_recipe({**values, "tokenizer": str(tmp_path / "tokenizer")}, "test")


def test_the_tokenizer_of_the_builds_is_accepted(recipe: Recipe) -> None:
    check_data(recipe)


def test_another_tokenizer_is_refused_by_the_name_of_the_build(recipe: Recipe, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "other", "unknown one three")
    with pytest.raises(SeedError, match=r"build: built with another tokenizer than .*other"):
        check_data(recipe.model_copy(update={"tokenizer": tmp_path / "other"}))


def test_a_tokenizer_that_is_not_there_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="nowhere: no such directory"):
        check_data(recipe.model_copy(update={"tokenizer": tmp_path / "nowhere"}))
