"""What follows from how an attempt to train ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.slurm.history import History, failures_in_a_row, verdict
from launch.slurm.policy import Act, End, Rules, Situation, decide, read_end

RULES = Rules(node_counts=(2,), tries=3, requeue=True, at_time_limit="requeue")
FAILED = End("failed", "rank 1: exit code 1")


@pytest.mark.parametrize(
    ("codes", "outcome", "said"),
    [
        ({0: 0, 1: 0}, "done", "to the end"),
        ({0: 75, 1: 75}, "stopped", "saved"),
        ({0: 75, 1: 143}, "stopped", "saved"),
        ({0: 75}, "stopped", "early"),
        ({0: 138, 1: 138}, "stopped", "early"),
        ({0: 2, 1: 69}, "wrong_input", "rank 0"),
        ({0: 69, 1: 137}, "failed", "rank 1: exit code 137 (killed (out of memory?)); rank 0: exit code 69"),
        ({0: 69}, "failed", "rank 1 vanished without an exit code"),
        ({0: 0}, "failed", "rank 1 vanished"),
        ({}, "failed", "srun's exit code was 9"),
    ],
)
def test_exit_codes_of_all_ranks_together(codes: dict[int, int], outcome: str, said: str) -> None:
    end = read_end(codes, 2, 9)
    assert end.outcome == outcome and said in end.why


@pytest.mark.parametrize(
    ("situation", "act"),
    [
        (Situation(End("done", ""), 2, []), Act.DONE),
        (Situation(FAILED, 2, ["a"]), Act.AGAIN),
        (Situation(FAILED, 1, ["a"]), Act.REQUEUE),
        (Situation(FAILED, 2, ["a", "b", "c"]), Act.GIVE_UP),
        (Situation(End("wrong_input", "w"), 2, ["a"]), Act.GIVE_UP),
        (Situation(End("wrong_input", "w"), 2, ["a"], faulty={"n1"}), Act.AGAIN),
        (Situation(End("stopped", "s"), 2, []), Act.REQUEUE),
        (Situation(End("stopped", "s"), 2, ["a", "b", "c"]), Act.GIVE_UP),
        (Situation(FAILED, 2, [], terminated=True), Act.LEAVE),
        (Situation(End("stopped", "s"), 2, [], terminated=True), Act.LEAVE),
        (Situation(End("stopped", "s"), 2, [], terminated=True, time_limit=True), Act.REQUEUE),
        (Situation(FAILED, 2, ["a"], terminated=True, time_limit=True), Act.REQUEUE),
    ],
)
def test_decisions(situation: Situation, act: Act) -> None:
    assert decide(situation, RULES).act is act


@pytest.mark.parametrize("at_limit", ["next", "end"])
def test_at_the_time_limit_without_requeueing(at_limit: str) -> None:
    rules = Rules((2,), 3, False, at_limit)
    assert decide(Situation(End("stopped", "s"), 2, []), rules).act is Act.LEAVE
    lacking = decide(Situation(FAILED, 1, ["a"]), rules)
    assert lacking.act is Act.LEAVE and "1 good nodes are left, 2 are needed" in lacking.why


def test_giving_up_names_every_failure() -> None:
    why = decide(Situation(FAILED, 2, ["first", "second", "third"]), RULES).why
    assert why == "3 attempts left no new checkpoint: first; second; third"


def attempt(history: History, number: int, saved: int, **end: object) -> None:
    history.add("attempt", attempt=number, saved=saved)
    if end:
        history.add("ended", attempt=number, **end)


def test_failures_in_a_row_begin_anew_with_a_checkpoint_and_with_a_submission(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("submitted", jobs=["1"])
    attempt(history, 1, 0, failed=True, why="a")
    attempt(history, 2, 0, failed=True, why="b")
    assert [event["why"] for event in failures_in_a_row(history.events(), 0)] == ["a", "b"]
    assert failures_in_a_row(history.events(), 10) == []
    attempt(history, 3, 10, failed=False, why="someone cancelled it")
    attempt(history, 4, 10)
    assert [event["why"] for event in failures_in_a_row(history.events(), 10)] == ["the node that watched it was lost"]
    history.add("submitted", jobs=["2"])
    assert failures_in_a_row(history.events(), 10) == []


def test_a_verdict_holds_until_the_next_submission(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert verdict(history.events()) is None
    history.add("submitted", jobs=["1"])
    history.add("gave_up", why="w")
    assert verdict(history.events())["event"] == "gave_up"
    history.add("submitted", jobs=["2"])
    assert verdict(history.events()) is None


def test_a_line_that_a_kill_cut_short_costs_only_itself(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("submitted", jobs=["1"])
    with history.path.open("a") as file:
        file.write('{"event": "att')
    history.add("finished")
    assert [event["event"] for event in history.events()] == ["submitted", "finished"]
