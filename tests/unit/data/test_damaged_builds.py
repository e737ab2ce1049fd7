"""Damage to a build, one bit of it too: refused at the start of a run, or found by `data verify`, by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from typer.testing import CliRunner

from launch.cli import app
from megatron_seed.config.load import load_recipe
from megatron_seed.config.sources import SourceConfig
from megatron_seed.data.declare import Vocabulary, declare
from megatron_seed.data.held_out import check_data
from megatron_seed.data.loader import open_builds
from megatron_seed.errors import SeedError


@pytest.fixture(scope="module")
def whole(tiny_builds: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for ending in ("bin", "idx", "manifest.json"):
        shutil.copy(f"{tiny_builds['train']}.{ending}", folder / f"copy.{ending}")
    return folder / "copy"


@pytest.fixture
def build(whole: Path, tmp_path: Path) -> Path:
    for path in whole.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "copy"


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_of_an_index_is_refused_at_the_start(whole: Path, place: int, bit: int) -> None:
    index = Path(f"{whole}.idx")
    content = index.read_bytes()
    flip(index, place, bit)
    try:
        with pytest.raises(SeedError, match=r"copy\.(idx|bin)"):
            open_builds(SourceConfig(name="s", builds=(str(whole),)), 120, thorough=True)
    finally:
        index.write_bytes(content)


def test_a_run_is_refused_by_the_name_of_the_file(tiny_recipe: Callable[..., Path], build: Path) -> None:
    recipe = load_recipe(tiny_recipe(), [f"phases.0.blend.0.builds={build}"])
    check_data(recipe)
    flip(Path(f"{build}.idx"), -9)
    with pytest.raises(SeedError, match=r"copy\.idx"):
        check_data(recipe)


def verify(*prefixes: Path | str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["data", "verify", *map(str, prefixes)])
    return result.exit_code, result.output.splitlines()


def test_verify_reads_the_tokens_too(build: Path, tiny_builds: dict[str, str]) -> None:
    other = tiny_builds["held_out"]
    assert verify(build, f"{build}.bin", other) == (0, [f"{build}: good", f"{other}: good"])
    flip(Path(f"{build}.bin"), 777)
    code, lines = verify(other, build)
    assert code == 1
    assert lines == [f"{other}: good", f"damaged: {build}.bin: does not have the digest it was written with"]
    Path(f"{build}.bin").write_bytes(Path(f"{build}.bin").read_bytes()[:-1])
    assert verify(build)[0] == 1
    assert verify(build.with_name("nothing"))[1] == [
        f"damaged: {build.with_name('nothing')}.idx: no such file; a build is named by its prefix, without .bin or .idx"
    ]


def test_a_build_that_was_never_declared_cannot_be_verified(build: Path) -> None:
    Path(f"{build}.manifest.json").unlink()
    assert verify(build) == (1, [f"damaged: {build}: has no manifest with digests to hold it against"])


def test_a_build_without_tokens_is_refused_by_name(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "empty.bin"), dtype=np.uint16)
    builder.add_item(torch.zeros(0, dtype=torch.int64))
    builder.end_document()
    builder.finalize(str(tmp_path / "empty.idx"))
    with pytest.raises(SeedError, match=r"empty\.bin: holds no tokens"):
        declare([tmp_path / "empty"], Vocabulary.of_size(9))
