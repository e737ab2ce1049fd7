"""What is said of a job that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_seed.watch.flight_recorder import Call
from megatron_seed.watch.hang_report import Report, list_ranks, read_reports, summarise, take_report, write_report

HOSTS = {rank: f"node{rank}" for rank in range(4)}


def report(rank: int, **changes: object) -> Report:
    values = {"idle_s": 30.0, "finished": "step 7", "doing": "", "place": "file.py:1 (read)", "others": ()}
    return Report(rank=rank, host=f"node{rank}", pid=1, **(values | changes))


@pytest.mark.parametrize(
    ("ranks", "told"), [([], ""), ([3], "3"), ([0, 1], "0-1"), ([7, 2, 0, 1], "0-2, 7"), ([1, 3, 4, 5], "1, 3-5")]
)
def test_ranks_are_listed_in_runs(ranks: list[int], told: str) -> None:
    assert list_ranks(ranks) == told


def test_the_rank_that_is_missed_is_named_with_where_it_stands() -> None:
    groups, call = {"0": [0, 1, 2]}, Call("0", 1, "all_reduce", "[2] float32", "step.py:9 (loss)", waiting=True)
    waits = {"groups": groups, "calls": [call]}
    told = summarise({0: report(0, **waits), 1: report(1, groups=groups), 2: report(2, **waits)}, 3, HOSTS)
    assert told == (
        "nothing finished for 30 s, since step 7; rank 1 (node1) never joined all_reduce [2] float32, number 1 of the "
        "group of all ranks, called at step.py:9 (loss) by ranks 0, 2; rank 1 (node1) stands at file.py:1 (read)"
    )


def test_where_nobody_waits_the_odd_one_comes_first() -> None:
    reports = {rank: report(rank, doing="waiting for the others' data") for rank in range(3)}
    reports[3] = report(3, doing="waiting for its data", others=("thread prefetch at disk.py:5 (read)",))
    assert summarise(reports, 4, HOSTS) == (
        "nothing finished for 30 s, since step 7; "
        "rank 3 (node3) stands waiting for its data, thread prefetch at disk.py:5 (read); "
        "ranks 0-2 stand waiting for the others' data"
    )


def test_a_rank_without_report_is_named() -> None:
    told = summarise({0: report(0)}, 2, HOSTS)
    assert told.endswith("rank 1 (node1) gave no report: the interpreter is stuck, or the process is gone")


def test_a_report_has_all_stacks_and_is_read_again(tmp_path: Path) -> None:
    taken = take_report(3, "here", 17, idle_s=2.0, finished="step 1", doing="waiting", settled_s=1.0)
    with (tmp_path / "rank-3.txt").open("w") as file:
        write_report(taken, file, tmp_path)
    told = (tmp_path / "rank-3.txt").read_text()
    assert "rank 3 on here, process 17: nothing finished for 2 s, since step 1, waiting" in told
    assert "in test_a_report_has_all_stacks_and_is_read_again" in told
    (tmp_path / "rank-4.json").write_text("{")
    assert read_reports(tmp_path) == {3: taken}
