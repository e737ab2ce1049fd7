"""What calls have in common is sent to a worker once, and reaches every call."""

import os
import signal

import pytest

from data_prep.engines.base import Call
from data_prep.engines.local import LocalEngine

CALLS = 12
pickled: list[int] = []


class Large:
    """Counts how often it is sent away."""

    def __init__(self, value: int):
        self.value = value

    def __reduce__(self):
        pickled.append(self.value)
        return Large, (self.value,)


def add(number, *common):
    return number + sum(large.value for large in common)


def add_or_die_once(mark, number, *common):
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return add(number, *common)


@pytest.fixture(autouse=True)
def from_zero():
    pickled.clear()


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_sent_to_each_worker_once(workers):
    common = (Large(100), Large(1000))
    calls = [Call(str(number), add, (number,), common) for number in range(CALLS)]
    assert dict(LocalEngine(workers).run(calls)) == {number: 1100 + number for number in range(CALLS)}
    assert len(pickled) == (0 if workers == 1 else 2 * workers)


def test_calls_that_differ_in_it_get_their_own():
    few, many = (Large(1),), (Large(2), Large(3))
    common = [few, many, (), few, (), many]
    calls = [Call(str(number), add, (10 * number,), given) for number, given in enumerate(common)]
    assert dict(LocalEngine(2).run(calls)) == {0: 1, 1: 15, 2: 20, 3: 31, 4: 40, 5: 55}


def test_a_worker_that_takes_the_place_of_a_dead_one_gets_it_too(tmp_path):
    common = (Large(100),)
    calls = [Call(str(number), add_or_die_once, (tmp_path / "mark", number), common) for number in range(CALLS)]
    assert dict(LocalEngine(2).run(calls)) == {number: 100 + number for number in range(CALLS)}
    assert len(pickled) == 3
