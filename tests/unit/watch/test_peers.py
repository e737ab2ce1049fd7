"""Processes that know of each other: every way to end is told apart."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from megatron_seed.watch.peers import Contact, Peers

SOON_S = 20.0


@pytest.fixture
def join() -> Iterator[Callable[..., tuple[Contact, list[Peers]]]]:
    """Ranks of a job in this process, all on the line; `absent` ones are left to the test."""
    joined: list[Peers] = []

    def join_(world_size: int, absent: int = 0, timeout_s: float = 60.0) -> tuple[Contact, list[Peers]]:
        joined.extend(
            Peers(rank, world_size, heartbeat_s=0.05, timeout_s=timeout_s) for rank in range(world_size - absent)
        )
        contact = joined[0].listen("127.0.0.1")
        for peers in joined[1:]:
            peers.connect(contact)
        if not absent:
            assert all(peers.wait(lambda peers=peers: len(peers.roster) == world_size, SOON_S) for peers in joined)
        return contact, joined

    yield join_
    for peers in reversed(joined):
        peers.leave()


def call_in(contact: Contact, rank: int, token: str) -> socket.socket:
    """A process that says hello and nothing more."""
    line = socket.create_connection((contact.address, contact.port))
    peer = {"host": "elsewhere", "pid": 1, "machine": ""}
    line.sendall(json.dumps({"rank": rank, "token": token, "peer": peer}).encode() + b"\n")
    return line


def test_all_learn_that_one_died(join: Callable) -> None:
    contact, (first, second) = join(3, absent=1)
    line = call_in(contact, 2, contact.token)
    assert second.wait(lambda: 2 in second.roster, SOON_S) and second.roster[2].host == "elsewhere"
    line.close()
    for peers in (first, second):
        assert peers.wait(lambda peers=peers: bool(peers.lost()), SOON_S)
        assert [(fate.rank, str(fate)) for fate in peers.lost()] == [(2, "died")]


def test_all_learn_of_one_that_says_nothing(join: Callable) -> None:
    contact, (first, second) = join(3, absent=1, timeout_s=1.0)
    line = call_in(contact, 2, contact.token)
    assert second.wait(lambda: bool(second.lost()), SOON_S)
    assert [(fate.rank, fate.kind) for fate in second.lost()] == [(2, "silent")]
    assert [fate.rank for fate in first.lost()] == [2], "those that were heard are not taken for dead"
    line.close()


def test_an_error_is_passed_on_and_a_farewell_is_no_loss(join: Callable) -> None:
    _, (first, second, third, fourth) = join(4)
    third.leave("ValueError: no")
    fourth.leave()
    for peers in (first, second):
        assert peers.wait(lambda peers=peers: len(peers.fates) == 2, SOON_S)
        assert [(fate.rank, str(fate)) for fate in peers.lost()] == [(2, "ended with ValueError: no")]


def test_the_others_notice_the_end_of_rank_0(join: Callable) -> None:
    _, (first, second) = join(2)
    first.leave("RuntimeError: it")
    assert second.wait(lambda: bool(second.lost()), SOON_S)
    assert str(second.lost()[0]) == "ended with RuntimeError: it"


def test_an_alarm_makes_all_report_and_the_verdict_reaches_all(join: Callable) -> None:
    _, (first, second, third) = join(3)
    third.raise_alarm({"said": "three"})
    assert all(peers.wait(lambda peers=peers: peers.alarm, SOON_S) for peers in (first, second))
    second.raise_alarm({"said": "two"})
    assert first.wait(lambda: first.reports == {1: {"said": "two"}, 2: {"said": "three"}}, SOON_S)
    first.tell("it was three")
    assert all(peers.wait(lambda peers=peers: peers.verdict == "it was three", SOON_S) for peers in (second, third))


def test_strangers_are_not_let_in(join: Callable) -> None:
    contact, (first, second) = join(3, absent=1)
    with call_in(contact, 1, "guess") as line:
        line.settimeout(SOON_S)
        assert line.recv(1) == b"", "hung up"
    assert second.rank not in first.fates


def test_without_a_line_the_job_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    alone = Peers(1, 2, heartbeat_s=0.05, timeout_s=1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        alone.connect(Contact("127.0.0.1", probe.getsockname()[1], "token"))
    assert "dead processes will not be named" in caplog.text
    assert not alone.lost()
    alone.leave()
