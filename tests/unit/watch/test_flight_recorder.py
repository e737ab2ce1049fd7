"""Which rank does not fit, told from the collectives that each rank took part in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from megatron_seed.watch.flight_recorder import Call, describe_place, find_misfits

LOSS, GRADIENTS, NORM = (("all_reduce", place) for place in ("loss.py:1", "gradients.py:2", "norm.py:3"))
GATHER = ("all_gather", "gather.py:4")
STEP = [GRADIENTS, NORM, LOSS]


def record(*calls: tuple[str, str], waits: bool, group: str = "all") -> list[Call]:
    """A rank's calls in one group; the last is still waiting or not."""
    return [
        Call(group, number, op, "[2] float32", place, waits and number == len(calls))
        for number, (op, place) in enumerate(calls, 1)
    ]


def found(calls: dict[int, list[Call]], **groups: Sequence[int]) -> list[tuple[tuple[int, ...], str, str]]:
    misfits = find_misfits(calls, groups or {"all": sorted(calls)})
    return [(misfit.ranks, misfit.what, f"{misfit.call.place} {misfit.call.number}") for misfit in misfits]


def test_a_rank_that_never_comes() -> None:
    others = record(*STEP, GRADIENTS, waits=True)
    calls = {0: others, 1: others, 2: record(*STEP, waits=False), 3: others}
    assert found(calls) == [((2,), "never joined", "gradients.py:2 4")]


def test_a_rank_of_which_nothing_is_known_never_came() -> None:
    others = record(*STEP, waits=True)
    assert found({0: others, 2: others}, all=[0, 1, 2]) == [((1,), "never joined", "loss.py:1 3")]


def test_a_rank_that_calls_something_else() -> None:
    others = record(*STEP, waits=True)
    calls = {0: others, 1: record(GRADIENTS, NORM, GATHER, waits=True), 2: others}
    ((ranks, what, call),) = found(calls)
    assert (ranks, call) == ((1,), "loss.py:1 3")
    assert what == "called all_gather [2] float32 at gather.py:4 instead of"


@pytest.mark.parametrize("left_out", [1, 2, 3, 4])
def test_a_call_left_out_is_found_though_the_next_ones_paired_up(left_out: int) -> None:
    """All are alike to the backend: the job comes to a stop at its end only."""
    every = STEP * 3
    fewer = every[: left_out - 1] + every[left_out:]
    others = record(*every, waits=True)
    ((ranks, what, call),) = found({0: others, 1: others, 2: record(*fewer, waits=False), 3: others})
    assert (ranks, what, call) == ((2,), "left out", f"{every[left_out - 1][1]} {left_out}")


def test_a_call_too_many() -> None:
    every = STEP * 3
    more = [*every[:4], LOSS, *every[4:]]
    others = record(*every, waits=False)
    ((ranks, what, call),) = found({0: others, 1: record(*more, waits=True), 2: others})
    assert ranks == (1,) and call == "norm.py:3 5"
    assert what == "called all_reduce [2] float32 at loss.py:1, which the others did not, before"


def test_ranks_that_wait_for_one_that_waits_elsewhere_are_not_blamed() -> None:
    """Rank 3 stands still. Its tensor-parallel peer 2 waits for it, and so rank 0 waits for 2 among the replicas."""
    calls = {
        0: record(LOSS, waits=False, group="left") + record(NORM, waits=True, group="first"),
        1: record(LOSS, waits=False, group="left") + record(NORM, waits=True, group="second"),
        2: record(LOSS, LOSS, waits=True, group="right"),
        3: record(LOSS, waits=False, group="right"),
    }
    groups = {"left": [0, 1], "right": [2, 3], "first": [0, 2], "second": [1, 3]}
    assert {ranks for ranks, _, _ in found(calls, **groups)[:2]} == {(3,)}


def test_different_places_alone_are_no_misfit() -> None:
    """Rank 0 may come to a collective by a way of its own."""
    assert not found({0: record(LOSS, NORM, waits=False), 1: record(GRADIENTS, NORM, waits=False)})
    calls = {0: record(LOSS, NORM, LOSS, waits=True), 1: record(GRADIENTS, NORM, waits=False)}
    assert found(calls) == [((1,), "never joined", "loss.py:1 3")]


def test_where_nobody_waits_nothing_is_found() -> None:
    assert not found({0: record(*STEP, waits=False), 1: record(*STEP[:2], waits=False)})


def test_a_place_is_the_callers_not_the_librarys() -> None:
    torch_s = ("/x/site-packages/torch/distributed/distributed_c10d.py", 1, "all_reduce")
    megatron_s = ("/x/site-packages/megatron/core/optimizer.py", 2, "step")
    assert describe_place([torch_s, megatron_s]) == "megatron/core/optimizer.py:2 (step)"
    assert describe_place([torch_s]) == "an unknown place"
