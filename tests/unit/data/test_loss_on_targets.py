"""Which labels have a loss, where builds say that only targets do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import PhaseConfig
from megatron_seed.config.sources import HeldOutConfig, SourceConfig
from megatron_seed.data.blend import Blend
from megatron_seed.data.held_out import HeldOut, check_data
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import PhaseData, cursors_after, open_builds
from megatron_seed.data.manifest import bytes_per_token
from megatron_seed.data.stream import TokenStream
from megatron_seed.data.verify import find_damage
from megatron_seed.errors import SeedError

Documents = list[tuple[int, int]]
"""(length, first token whose loss counts) of each."""
LENGTH = 8
documents = st.lists(
    st.integers(1, 14).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length))),
    min_size=1,
    max_size=10,
)


def in_memory(found: Documents, first: int, masked: bool = True) -> IndexedTokens:
    """Documents whose tokens count up from `first`: each says where it comes from."""
    lengths = np.asarray([length for length, _ in found], np.int64)
    starts = np.asarray([start for _, start in found], np.int32) if masked else None
    tokens = np.arange(first, first + lengths.sum(), dtype=np.int32)
    build = IndexedTokens(Path("memory"), tokens.dtype, len(tokens), lengths, starts)
    build.__dict__["tokens"] = tokens
    return build


def phase(**changes: object) -> PhaseConfig:
    values = {
        "name": "p",
        "tokens": 512,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": "x", "weight": 2}, {"name": "b", "builds": "y", "weight": 1}],
        "sequence_length": LENGTH,
        "global_batch_size": 8,
        "shuffle_block": 4,
        **changes,
    }
    return PhaseConfig.model_validate(values)


def counting(found: Documents, first: int) -> tuple[set[int], set[int]]:
    """Tokens that count as labels, and first tokens of documents; one document after the other."""
    counted, begins, at = set(), set(), first
    for length, start in found:
        counted |= set(range(at + start, at + length))
        begins.add(at)
        at += length
    return counted, begins


@given(documents, documents, st.booleans(), st.integers(0, 40))
def test_labels_count_from_their_documents_target_on(
    one: Documents, other: Documents, document_mask: bool, consumed: int
) -> None:
    """In packed sequences, over epochs, after a resume in the middle of a block, beside a source that counts it all."""
    config = phase(document_mask=document_mask, micro_batch_size=2)
    streams = (
        TokenStream("a", [in_memory(one, 0), in_memory(other, 1000)], 1),
        TokenStream("b", [in_memory(one, 10_000, masked=False)], 1),
    )
    blend = Blend([source.weight for source in config.blend])
    data = PhaseData(config, streams, blend, cursors_after(config, 1, {}, None, consumed))
    counted, begins = map(set.union, counting(one, 0), counting(other, 1000))
    everything, more = counting([(length, 0) for length, _ in one], 10_000)
    counted, begins = counted | everything, begins | more
    for batch in data.micro_batches(0, 8, 0, 1):
        for labels, mask in zip(batch["labels"].tolist(), batch["loss_mask"].tolist(), strict=True):
            for place, label in enumerate(labels):
                # With a document mask no loss crosses a border, and none leads out of a row's end.
                crosses = document_mask and (label in begins or place == LENGTH - 1)
                assert mask[place] == float(label in counted and not crosses)


@given(documents, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_masks_go_with_their_samples_to_whichever_rank(found: Documents, data_size: int, micro: int) -> None:
    config = phase(blend=[{"name": "a", "builds": "x"}], micro_batch_size=micro)
    data = PhaseData(config, (TokenStream("a", [in_memory(found, 0)], 1),), Blend([1.0]), {})
    whole = [(data.sample(n).tolist(), data.counted(n).tolist()) for n in range(8)]
    shared = [
        ([*tokens.tolist(), labels[-1].item()], (mask > 0).tolist())
        for rank in range(data_size)
        for batch in data.micro_batches(0, 8, rank, data_size)
        for tokens, labels, mask in zip(batch["tokens"], batch["labels"], batch["loss_mask"], strict=True)
    ]
    assert sorted(shared) == sorted(whole)


@given(documents, st.integers(1, 9))
def test_held_out_labels_count_likewise(found: Documents, length: int) -> None:
    build = in_memory(found, 0)
    windows = (build.token_count - 1) // length
    if not windows:
        return
    source = HeldOut("s", build, 3.0, length, windows)
    counted, _ = counting(found, 0)
    for number in range(windows):
        labels = source.window(number)[1:].tolist()
        assert source.counted(number).tolist() == [label in counted for label in labels]
    assert source.bytes_per_token is None, "the mean of whole documents says nothing of their targets"
    masks = torch.cat([batch["loss_mask"] for batch in source.micro_batches(1, 0, 1)])
    assert masks.sum() == sum(source.counted(number).sum() for number in range(windows))
    assert (
        dataclasses.replace(build, loss_starts=None)
        and HeldOut("s", dataclasses.replace(build, loss_starts=None), 3.0, length, windows).bytes_per_token == 3.0
    )


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Thirty documents of ten tokens whose targets begin at the seventh, as `data build --loss target` leaves them."""
    prefix = tmp_path / "targets"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for _ in range(30):
        builder.add_item(torch.arange(10))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    write_starts(prefix, np.full(30, 6, np.int32))
    return prefix


def write_starts(prefix: Path, starts: np.ndarray, on: str = "target") -> None:
    np.save(f"{prefix}.loss_starts.npy", starts)
    names = [f"{prefix.name}{suffix}" for suffix in (".bin", ".idx", ".loss_starts.npy")]
    data = {name: prefix.with_name(name).read_bytes() for name in names}
    files = {name: {"sha256": hashlib.sha256(found).hexdigest()} for name, found in data.items()}
    said = {"tokenizer": {"digest": "d", "vocab_size": 100}, "fim": {"rate": 0.0}, "documents": 30, "tokens": 300}
    said |= {"size_bytes": 900, "loss": {"on": on, "starts": names[2], "tokens": 120}, "files": files}
    Path(f"{prefix}.manifest.json").write_text(json.dumps(said))


def test_the_build_decides_unless_the_recipe_does(build: Path) -> None:
    def mask(loss: str | None) -> list[float]:
        blend = [{"name": "a", "builds": str(build), "loss": loss}]
        config = phase(blend=blend, sequence_length=10, document_mask=True)
        told = bytes_per_token(config)
        assert told == (3.0 if loss == "all" else None)
        data = PhaseData.open(config, 1, 100, {}, thorough=True)
        return next(data.micro_batches(0, 1, 0, 1))["loss_mask"][0].tolist()

    assert mask(None) == mask("target") == [0.0] * 5 + [1.0] * 4 + [0.0]
    assert mask("all") == [1.0] * 9 + [0.0]


def test_held_out_scores(build: Path) -> None:
    def counted(score: str | None) -> float:
        source = HeldOut.open(HeldOutConfig(name="s", builds=(str(build),), score=score), 100, 10, 5)
        return sum(source.counted(number).sum() for number in range(5)) / 5

    assert counted(None) == counted("target") == 4
    assert counted("all") == 10


def test_the_loss_of_targets_needs_builds_that_record_them(
    tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str]
) -> None:
    named = f"{tiny_builds['train']}: does not record where targets begin, .* `data build --loss target`"
    with pytest.raises(SeedError, match=named):
        check_data(load_recipe(tiny_recipe(), ["phases.0.blend.0.loss=target"]))
    held_out = {"held_out": [{"name": "h", "builds": tiny_builds["train"], "score": "target"}]}
    with pytest.raises(SeedError, match=named):
        check_data(load_recipe(tiny_recipe(evaluation=held_out)))
    check_data(load_recipe(tiny_recipe(), ["phases.0.blend.0.loss=all"]))
    with pytest.raises(SeedError, match=r"phases.0.blend.0.loss.*all.*target"):
        load_recipe(tiny_recipe(), ["phases.0.blend.0.loss=targets"])


@pytest.mark.parametrize(
    ("starts", "problem"),
    [
        (None, "no such file, but the build's manifest says that loss is on targets"),
        (np.full(29, 6, np.int32), r"holds int32 \[29\], but the build has 30 documents"),
        (np.full(30, 6, np.int64), r"holds int64 \[30\], but the build has 30 documents"),
        (np.full(30, 11, np.int32), "has targets outside of their documents"),
        (np.full(30, -1, np.int32), "has targets outside of their documents"),
        (np.asarray([{}] * 30), "cannot be read"),
        (b"rubbish", "cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(build: Path, starts: np.ndarray | bytes | None, problem: str) -> None:
    path = Path(f"{build}.loss_starts.npy")
    if starts is None:
        path.unlink()
    elif isinstance(starts, bytes):
        path.write_bytes(starts)
    else:
        write_starts(build, starts)
    with pytest.raises(SeedError, match=problem):
        open_builds(SourceConfig(name="s", builds=(str(build),)), 100, thorough=True)
    assert str(path) in find_damage(build)
    assert open_builds(SourceConfig(name="s", builds=(str(build),), loss="all"), 100, thorough=True)


def test_a_flipped_bit_is_found(build: Path) -> None:
    assert find_damage(build) is None
    path = Path(f"{build}.loss_starts.npy")
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    assert "does not have the digest it was written with" in find_damage(build)
    with pytest.raises(SeedError, match="does not have the digest it was written with"):
        open_builds(SourceConfig(name="s", builds=(str(build),)), 100, thorough=True)


def test_what_a_later_version_may_ask_for_is_refused(build: Path) -> None:
    write_starts(build, np.full(30, 6, np.int32), on="answers")
    with pytest.raises(SeedError, match=r"not the manifest of a build: loss.on"):
        open_builds(SourceConfig(name="s", builds=(str(build),)), 100)
