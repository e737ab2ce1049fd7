"""Which tokens make up which sample: pure functions, whatever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_seed.config.schema import PhaseConfig
from megatron_seed.data.blend import Blend
from megatron_seed.data.cursor import Cursor, Windows
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.keyed import keyed_permutation
from megatron_seed.data.loader import PhaseData, cursors_after
from megatron_seed.data.stream import TokenStream


def in_memory(lengths: list[int], start: int = 0) -> IndexedTokens:
    tokens = np.arange(start, start + sum(lengths), dtype=np.int32)
    build = IndexedTokens(Path("memory"), tokens.dtype, len(tokens), np.asarray(lengths, np.int64))
    build.__dict__["tokens"] = tokens
    return build


def naive_stream(stream: TokenStream, epochs: int) -> np.ndarray:
    """Every epoch written out in full."""
    parts = []
    for epoch in range(epochs):
        build = stream.builds[epoch % len(stream.builds)]
        for document in keyed_permutation(len(build.document_lengths), f"{stream.seed}:{stream.name}:{epoch}"):
            parts.append(build.document(document))
    return np.concatenate(parts)


@given(
    lengths=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), min_size=1, max_size=3),
    start=st.integers(0, 60),
    length=st.integers(1, 60),
)
def test_a_stream_is_its_epochs_one_after_the_other(lengths: list[list[int]], start: int, length: int) -> None:
    stream = TokenStream("s", [in_memory(build, 1000 * n) for n, build in enumerate(lengths)], seed=3)
    expected = naive_stream(stream, epochs=125 * len(lengths))[start : start + length]
    assert stream.read(start, length).tolist() == expected.tolist()


@given(size=st.integers(0, 500), key=st.text(max_size=5))
def test_keyed_permutations_are_permutations(size: int, key: str) -> None:
    assert sorted(keyed_permutation(size, key)) == list(range(size))


def test_epochs_seeds_and_names_shuffle_differently() -> None:
    orders = {tuple(keyed_permutation(50, key)) for key in ("1:a:0", "1:a:1", "2:a:0", "1:b:0")}
    assert len(orders) == 4
    # A golden value: the order of data must not change from one version to the next.
    assert keyed_permutation(8, "1:a:0").tolist() == GOLDEN


GOLDEN = [4, 2, 7, 6, 5, 1, 3, 0]


@settings(max_examples=40)
@given(weights=st.lists(st.floats(0.01, 10.0), min_size=1, max_size=7), samples=st.integers(1, 6000))
def test_blends_are_exact_to_within_one_sample(weights: list[float], samples: int) -> None:
    shares = np.asarray(weights) / sum(weights)
    blend = Blend(weights)
    running = np.zeros(len(weights), np.int64)
    for index in range(min(samples, 400)):
        chosen, before = blend.source(index)
        assert before == running[chosen]
        running[chosen] += 1
        assert np.abs(running - shares * (index + 1)).max() < 1.0
    assert np.abs(blend.counts(samples) - shares * samples).max() < 1.0
    assert blend.counts(samples).sum() == samples


@settings(max_examples=20)
@given(weights=st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5), known=st.integers(0, 5000))
def test_a_memo_continues_the_same_order(weights: list[float], known: int) -> None:
    whole = Blend(weights)
    later = Blend(weights, whole.memo(known))
    assert [later.source(known + n) for n in range(50)] == [whole.source(known + n) for n in range(50)]
    assert later.counts(known + 5000).tolist() == whole.counts(known + 5000).tolist()


def phase(**changes: object) -> PhaseConfig:
    values = {
        "name": "p",
        "tokens": 512,
        "learning_rate": 1e-3,
        "blend": [{"name": "a", "builds": "x", "weight": 2}, {"name": "b", "builds": "y", "weight": 1}],
        "sequence_length": 8,
        "global_batch_size": 8,
        "shuffle_block": 4,
        **changes,
    }
    return PhaseConfig.model_validate(values)


def data(cursors: dict[str, Cursor] | None = None, **changes: object) -> PhaseData:
    config = phase(**changes)
    streams = (TokenStream("a", [in_memory([7] * 40)], 1), TokenStream("b", [in_memory([5] * 30, 10_000)], 1))
    return PhaseData(config, streams, Blend([source.weight for source in config.blend]), cursors or {})


@given(data_size=st.sampled_from([1, 2, 4, 8]), micro=st.sampled_from([1, 2, 4]), step=st.integers(0, 7))
def test_ranks_and_micro_batches_only_share_a_step_out(data_size: int, micro: int, step: int) -> None:
    if micro * data_size > 8:
        return
    parts = data(micro_batch_size=micro)
    rows = []
    for rank in range(data_size):
        batches = list(parts.micro_batches(8 * step, 8, rank, data_size))
        assert len(batches) == 8 // (micro * data_size)
        rows += [row.tolist() for batch in batches for row in batch["tokens"]]
    expected = [data().sample(index)[:-1].tolist() for index in range(8 * step, 8 * step + 8)]
    assert sorted(rows) == sorted(expected)


def test_a_larger_budget_keeps_the_order_of_what_was_planned() -> None:
    short, long = data(tokens=512), data(tokens=5120)
    assert all(np.array_equal(short.sample(index), long.sample(index)) for index in range(64))


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    block=st.integers(1, 6),
)
def test_phases_give_every_token_once_whatever_their_lengths(lengths: list[int], counts: list[int], block: int) -> None:
    cursor, given_tokens = Cursor(), []
    for length, count in zip(lengths, counts, strict=False):
        windows = Windows(cursor, length, block, "key")
        for sample in range(count):
            places = [place for start, stop in windows.ranges(sample) for place in range(start, stop)]
            assert len(places) == length + 1
            given_tokens += places[:-1]
            partial = windows.after(sample + 1)
            assert partial.given == len(given_tokens)
        cursor = windows.after(count)
    left = {place for start, stop in cursor.leftovers for place in range(start, stop)}
    assert len(given_tokens) == len(set(given_tokens))
    assert set(given_tokens) | left == set(range(cursor.frontier)) and not left & set(given_tokens)


def test_neighbouring_windows_are_spread_over_a_block() -> None:
    windows = Windows(Cursor(), 8, 1024, "key")
    starts = np.array([windows.ranges(sample)[0][0] for sample in range(1024)])
    assert sorted(starts) == list(range(0, 8 * 1024, 8))
    assert (np.abs(np.diff(starts)) == 8).sum() < 20


def test_cursors_go_on_where_the_sources_stopped() -> None:
    first = data()
    cursors = cursors_after(first.phase, 1, {}, None, 20)
    assert sum(cursor.given for cursor in cursors.values()) == 20 * 8
    assert abs(cursors["a"].given - 20 * 8 * 2 / 3) < 8
    seen = {tuple(first.sample(index)[:-1]) for index in range(20)}
    second = data(cursors, blend=[{"name": "a", "builds": "x"}, {"name": "b", "builds": "y", "weight": 9}])
    assert not seen & {tuple(second.sample(index)[:-1]) for index in range(20)}


@pytest.mark.parametrize(("block", "whole_epochs"), [(4, True), (64, False)])
def test_a_block_larger_than_an_epoch_mixes_epochs(block: int, whole_epochs: bool) -> None:
    length, windows = 10, 4  # of an epoch
    samples = Windows(Cursor(), length, block, "1:a")
    first = [samples.ranges(sample)[0][0] // length for sample in range(windows)]
    assert (sorted(first) == list(range(windows))) == whole_epochs
    assert sorted(samples.ranges(sample)[0][0] // length for sample in range(block)) == list(range(block))


def test_labels_are_the_next_tokens() -> None:
    batch = next(data().micro_batches(0, 8, 0, 1))
    assert batch["tokens"].shape == batch["labels"].shape == (1, 8)
    assert batch["labels"][0, :-1].tolist() == batch["tokens"][0, 1:].tolist()


@pytest.mark.parametrize("lengths", [[3], [1, 2, 3]])
def test_sources_smaller_than_a_sample_repeat(lengths: list[int]) -> None:
    stream = TokenStream("s", [in_memory(lengths)], 0)
    assert len(stream.read(0, 50)) == 50


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    start=st.integers(0, 60),
    length=st.integers(1, 60),
)
def test_document_starts_are_where_documents_start(lengths: list[int], start: int, length: int) -> None:
    build = in_memory(lengths)
    stream = TokenStream("s", [build], seed=3)
    firsts = {int(build.document(number)[0]) for number in range(len(lengths))}
    tokens = stream.read(start, length)
    expected = [place for place, token in enumerate(tokens.tolist()) if token in firsts]
    assert stream.document_starts(start, length) == expected


def test_masked_documents_lose_no_loss_but_that_across_their_borders() -> None:
    batch = next(data(document_mask=True, micro_batch_size=2).micro_batches(0, 8, 0, 1))
    ends = batch["document_ends"].tolist()
    assert ends[0] == 0 and ends[-1] == 16 and 8 in ends and ends == sorted(set(ends))
    tokens, labels, mask = (batch[name].flatten() for name in ("tokens", "labels", "loss_mask"))
    for place in range(16):
        assert bool(mask[place]) == (place + 1 not in ends)
        if mask[place]:
            assert labels[place] == tokens[place] + 1  # documents of this test count up
