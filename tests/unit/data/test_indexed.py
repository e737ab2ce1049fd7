"""`.bin/.idx` against megatron-core's own reader, and what happens to damaged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_seed.config.load import load_recipe
from megatron_seed.config.sources import SourceConfig
from megatron_seed.data.held_out import HeldOut, check_data
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import open_builds
from megatron_seed.errors import SeedError


@pytest.fixture
def build(tiny_builds: dict[str, str], tmp_path: Path) -> Path:
    for ending in ("bin", "idx"):
        shutil.copy(f"{tiny_builds['train']}.{ending}", tmp_path / f"copy.{ending}")
    return tmp_path / "copy"


def test_documents_equal_those_of_megatron_core(build: Path) -> None:
    theirs, ours = IndexedDataset(str(build)), IndexedTokens.open(build)
    assert len(ours.document_lengths) == len(theirs) == 300
    assert all(np.array_equal(ours.document(n), theirs[n]) for n in range(300))


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_truncated_file_is_refused_by_name(build: Path, ending: str) -> None:
    path = Path(f"{build}.{ending}")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SeedError, match=f"copy.{ending}"):
        IndexedTokens.open(build)


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_missing_file_is_refused_by_name(build: Path, ending: str) -> None:
    Path(f"{build}.{ending}").unlink()
    with pytest.raises(SeedError, match=f"copy.{ending}: no such file"):
        IndexedTokens.open(build)


def test_rubbish_is_refused(build: Path) -> None:
    Path(f"{build}.idx").write_bytes(b"rubbish" * 100)
    with pytest.raises(SeedError, match="no MMIDIDX header"):
        IndexedTokens.open(build)


def test_out_of_order_bounds_are_refused(build: Path) -> None:
    path = Path(f"{build}.idx")
    path.write_bytes(path.read_bytes()[:-8] + (7).to_bytes(8, "little"))
    with pytest.raises(SeedError, match="damaged"):
        IndexedTokens.open(build)


def manifest(build: Path) -> None:
    """As `data build` writes it, with three bytes of text a token."""
    tokens = IndexedTokens.open(build).token_count
    made_with = {"tokenizer": {"digest": "d", "vocab_size": 100}, "fim": {"rate": 0.5}}
    values = {**made_with, "documents": 300, "tokens": tokens, "size_bytes": 3 * tokens}
    Path(f"{build}.manifest.json").write_text(json.dumps(values))


def test_manifests_are_held_against_the_run(build: Path) -> None:
    source = SourceConfig(name="s", builds=(str(build),))
    manifest(build)
    assert open_builds(source, vocab_size=100, fim=0.5)
    with pytest.raises(SeedError, match=r"tokenizer of 100 ids, but model.vocab_size is 90"):
        open_builds(source, vocab_size=90)
    with pytest.raises(SeedError, match=f"{build}: built .* at rate 0.5, but the phase asks for fim: 0.1"):
        open_builds(source, vocab_size=100, fim=0.1)


def test_a_phase_takes_builds_of_its_infilling_rate_alone(
    tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]
) -> None:
    named = f"{tiny_builds['train']}: built with fill-in-the-middle at rate 0.0, but the phase asks for fim: 0.5"
    with pytest.raises(SeedError, match=named):
        check_data(load_recipe(tiny_recipe(), ["phases.0.fim=0.5"]))
    check_data(load_recipe(tiny_recipe(), ["phases.0.fim=0.5", "phases.0.blend.0.fim=0"]))


def test_held_out_windows_do_not_overlap_and_are_shared_out_whole(build: Path) -> None:
    manifest(build)
    source = HeldOut.open(SourceConfig(name="s", builds=(str(build),)), 200, 16, max_sequences=37)
    assert source.bytes_per_token == 3.0
    windows = [source.window(number) for number in range(37)]
    starts = [source.build.tokens.tolist().index(window[0]) for window in windows[:1]]
    assert starts == [0] and all(len(window) == 17 for window in windows)
    counted = 0.0
    for rank in range(2):
        batches = list(source.micro_batches(4, rank, 2))
        assert len(batches) == source.batches(4, 2) == 5
        counted += sum(float(batch["loss_mask"].sum()) for batch in batches)
    assert counted == 37 * 16


def test_a_held_out_build_that_is_too_short_is_refused(build: Path) -> None:
    manifest(build)
    with pytest.raises(SeedError, match="held-out source s"):
        HeldOut.open(SourceConfig(name="s", builds=(str(build),)), 200, 10**6, 5)


def test_unigram_entropy_of_equal_frequencies() -> None:
    tokens = IndexedTokens(Path("x"), np.dtype(np.int32), 80, np.asarray([80]))
    tokens.__dict__["tokens"] = np.tile(np.arange(8, dtype=np.int32), 10)
    assert HeldOut("s", tokens, None, 8, 1).unigram_entropy() == pytest.approx(np.log(8))
