"""Of infilling documents only the middles are scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_seed.config.sources import SourceConfig
from megatron_seed.data.held_out import HeldOut
from megatron_seed.data.indexed import IndexedTokens

MIDDLE, END = 9, 2
documents = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(10, 20), max_size=12), st.lists(st.integers(10, 20), max_size=6)),
    min_size=3,
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(documents, st.integers(2, 8))
def test_the_labels_that_count_are_the_middles_with_their_end(tmp_path: Path, texts: list, length: int) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "b.bin"), dtype=np.uint16)
    stream, middle = [], []
    for split, first, second in texts:
        whole = [*first, *([MIDDLE] if split else []), *second, END]
        builder.add_item(torch.tensor(whole))
        builder.end_document()
        stream += whole
        middle += [False] * (len(first) + 1) + [True] * (len(second) + 1) if split else [False] * len(whole)
    builder.finalize(str(tmp_path / "b.idx"))
    if len(stream) <= length:
        return
    prefix = str(tmp_path / "b")
    manifest = {"tokenizer": {"digest": "d", "vocab_size": 30}, "fim": {"rate": 1.0}, "size_bytes": 1}
    manifest |= {"documents": len(texts), "tokens": len(stream)}
    (tmp_path / "b.manifest.json").write_text(str(manifest).replace("'", '"'))
    source = HeldOut.open(SourceConfig(name="s", builds=(prefix,)), 30, length, 10**6, MIDDLE)
    assert source.bytes_per_token is None
    for number in range(source.sequences):
        start = number * length
        assert source.counted(number).tolist() == middle[start + 1 : start + length + 1]
    masks = torch.cat([batch["loss_mask"] for batch in source.micro_batches(1, 0, 1)])
    assert masks.sum() == sum(source.counted(number).sum() for number in range(source.sequences))


class Sizes:
    """Of a tokenizer whose id n stands for n bytes; special ones for none."""

    token_sizes = np.where(np.arange(30) < 10, 0, np.arange(30))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=9), min_size=2, max_size=9),
    st.integers(1, 8),
    st.booleans(),
)
def test_bytes_are_those_of_the_labels_that_count(texts: list[list[int]], length: int, middles: bool) -> None:
    tokens = np.asarray([token for text in texts for token in text])
    build = IndexedTokens(Path("memory"), tokens.dtype, len(tokens), np.asarray([len(text) for text in texts]))
    build.__dict__["tokens"] = tokens
    windows = (len(tokens) - 1) // length
    if not windows:
        return
    source = HeldOut("s", build, 3.0, length, windows, MIDDLE if middles else None, Sizes())
    labels = [source.window(n)[1:][source.counted(n)] for n in range(windows)]
    counted = np.concatenate(labels)
    mean = int(Sizes.token_sizes[counted].sum()) / len(counted) if len(counted) else None
    assert source.bytes_per_token == mean
    assert dataclasses.replace(source, encoder=None).bytes_per_token == (None if middles else 3.0)
