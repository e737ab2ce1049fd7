"""Intervals between saves and goodput, held against failures drawn at random."""

from __future__ import annotations

import random

import pytest

from megatron_seed.plan.faults import Reliability, daly_interval_s, goodput, job_mtbf_s, young_interval_s

CASES = [
    Reliability(mtbf_s=3_600.0, pause_s=5.0, write_s=0.0, restart_s=300.0),
    Reliability(mtbf_s=10_000.0, pause_s=60.0, write_s=120.0, restart_s=600.0),
    Reliability(mtbf_s=1_800.0, pause_s=30.0, write_s=60.0, restart_s=60.0),
]


def simulated(interval_s: float, costs: Reliability, failures: int = 20_000, seed: int = 0) -> float:
    """Share of the time that is training which counts: a job that fails at random, restarts, and goes on from disk."""
    generator = random.Random(seed)
    now = done = 0.0
    safe = done  # training that is on disk
    for _ in range(failures):
        fails = now + generator.expovariate(1.0 / costs.mtbf_s)
        now += costs.restart_s
        done = safe
        pending = []
        while now < fails:
            on_disk = pending[-1][0] if pending else 0.0
            now = max(now + interval_s, on_disk) + costs.pause_s  # one save at a time
            if now < fails:
                done += interval_s
                pending.append((now + costs.write_s, done))
        now = fails
        safe = max([safe, *(work for on_disk, work in pending if on_disk <= fails)])
    return safe / now


@pytest.mark.parametrize("costs", CASES)
def test_goodput_is_that_of_a_simulated_job(costs: Reliability) -> None:
    for interval_s in (0.5 * daly_interval_s(costs), daly_interval_s(costs), 3 * daly_interval_s(costs)):
        assert goodput(interval_s, costs) == pytest.approx(simulated(interval_s, costs), abs=0.015)


@pytest.mark.parametrize("costs", CASES)
def test_no_other_interval_is_better_than_dalys(costs: Reliability) -> None:
    best = goodput(daly_interval_s(costs), costs)
    others = [goodput(daly_interval_s(costs) * factor / 20, costs) for factor in range(2, 80)]
    assert max(others) <= best * 1.0005
    assert goodput(young_interval_s(costs), costs) <= best * 1.0005


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_saves_that_are_asked_for_too_early_hold_training_up(share: float) -> None:
    costs = Reliability(mtbf_s=100_000.0, pause_s=1.0, write_s=100.0, restart_s=600.0)
    interval_s = share * costs.write_s
    assert goodput(interval_s, costs) == pytest.approx(simulated(interval_s, costs, 500), abs=0.01)
    assert goodput(interval_s, costs) < share


def test_rare_failures_make_both_intervals_the_same() -> None:
    costs = Reliability(mtbf_s=1e9, pause_s=1.0, write_s=0.0, restart_s=60.0)
    assert daly_interval_s(costs) == pytest.approx(young_interval_s(costs), rel=1e-3)
    assert goodput(daly_interval_s(costs), costs) > 0.9999


def test_goodput_falls_with_everything_that_goes_wrong() -> None:
    plain = CASES[1]
    worse = [
        plain.__class__(**{**vars(plain), "mtbf_s": plain.mtbf_s / 2}),
        plain.__class__(**{**vars(plain), "pause_s": plain.pause_s * 2}),
        plain.__class__(**{**vars(plain), "write_s": plain.write_s * 2}),
        plain.__class__(**{**vars(plain), "restart_s": plain.restart_s * 2}),
    ]
    assert all(goodput(1_000.0, costs) < goodput(1_000.0, plain) for costs in worse)
    assert goodput(1e9, plain) == 0.0


def test_a_job_fails_as_often_as_any_of_its_nodes() -> None:
    assert job_mtbf_s(1_000.0, 50) == 20 * 3_600.0
    # Llama 3: an interruption about every three hours on 2,048 nodes.
    assert job_mtbf_s(6_334.0, 2_048) / 3_600 == pytest.approx(3.1, abs=0.05)
