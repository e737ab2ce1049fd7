"""Where `quickstart --full` takes its history, its repositories and its benchmark problems from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pygit2
import pytest
from rich.console import Console

from data_prep.annotators.decontamination import Decontamination
from launch.full import commits, github, history, packages, web
from launch.full.benchmarks import OWN, benchmark_files, plant
from launch.full.history import count_commits, take_history
from launch.full.packages import copy_packages
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.errors import SeedError


def repository(path: Path, commits: int) -> Path:
    made = pygit2.init_repository(str(path))
    parents: list = []
    for number in range(commits):
        (path / "a.py").write_text(f"VALUE = {number}\n")
        made.index.add("a.py")
        author = pygit2.Signature("A", "a@example.invalid", 1_600_000_000 + number, 0)
        parents = [made.create_commit("HEAD", author, author, f"Change {number}", made.index.write_tree(), parents)]
    made.index.write()
    return path


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "packages" / "place" / "one"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"m{number}.py").write_text(f'"""Module number {number}."""\nX = {number}\n')
    (folder / "bare.py").write_text("Y = 1\n")
    return tmp_path / "packages"


def test_a_given_history_is_copied(tmp_path: Path, code: Path) -> None:
    given = repository(tmp_path / "given", 5)
    found = take_history(tmp_path / "copy.git", given, 100, code)
    assert (found["kind"], found["commits"], found["shortened"]) == ("given", 5, False)
    assert count_commits(tmp_path / "copy.git") == 5


def test_of_a_long_history_the_newest_commits_are_copied(tmp_path: Path, code: Path) -> None:
    given = repository(tmp_path / "given", 9)
    found = take_history(tmp_path / "copy.git", given, 4, code)
    assert (found["commits"], found["shortened"]) == (4, True)
    newest = pygit2.Repository(str(tmp_path / "copy.git")).head.peel(pygit2.Commit)
    assert newest.message == "Change 8" and str(newest.id) == found["head"]


def test_taking_it_again_replaces_what_a_killed_run_left(tmp_path: Path, code: Path) -> None:
    given = repository(tmp_path / "given", 3)
    (tmp_path / ".copy.git.tmp").mkdir()
    (tmp_path / ".copy.git.tmp" / "rubbish").touch()
    take_history(tmp_path / "copy.git", given, 10, code)
    again = take_history(tmp_path / "copy.git", given, 10, code)
    assert again["commits"] == 3 and not (tmp_path / ".copy.git.tmp").exists()


def test_a_checkout_is_preferred_to_a_history_that_is_made(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, kind in ((history.LEAST_COMMITS, "checkout"), (history.LEAST_COMMITS - 1, "made")):
        checkout = repository(tmp_path / kind, count)
        (checkout / "launch").mkdir()
        monkeypatch.setattr(history.launch, "__file__", str(checkout / "launch" / "__init__.py"))
        assert take_history(tmp_path / f"{kind}.git", None, 100, code)["kind"] == kind


def test_a_history_that_is_made_adds_documented_files_one_by_one(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_checkout", lambda: None)
    found = take_history(tmp_path / "made.git", None, 100, code)
    made = pygit2.Repository(str(tmp_path / "made.git"))
    newest = made.head.peel(pygit2.Commit)
    assert found["kind"] == "made" and found["commits"] == 6
    assert newest.message == "Add place/one/m5.py\n\nModule number 5.\n"
    assert "made by megatron-seed" in newest.author.name
    assert [delta.new_file.path for delta in newest.tree.diff_to_tree(newest.parents[0].tree).deltas] == [
        "place/one/m5.py"
    ]
    again = take_history(tmp_path / "again.git", None, 100, code)
    assert again["head"] == found["head"]


@pytest.mark.parametrize("kind", ["missing", "folder", "unborn"])
def test_a_history_that_is_none_is_named(kind: str, tmp_path: Path, code: Path) -> None:
    path = tmp_path / kind
    if kind == "unborn":
        pygit2.init_repository(str(path))
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(SeedError, match=f"--history .*{kind}: no Git repository with a commit"):
        take_history(tmp_path / "copy.git", path, 10, code)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    for name, files in {"small": 1, "fits": 40, "also_fits": 40, "large": 400}.items():
        (folder / name).mkdir(parents=True)
        for number in range(files):
            (folder / name / f"{number}.py").write_text("x = 1\n" * 200)
        (folder / name / "binary.so").write_bytes(b"\0" * 5000)
    (folder / "a.dist-info").mkdir()
    monkeypatch.setattr(packages, "_PLACES", (("python", str(folder), 1.0), ("nowhere", str(tmp_path / "no"), 1.0)))
    return folder


def test_packages_are_taken_whole(place: Path, tmp_path: Path) -> None:
    (found,) = copy_packages(tmp_path / "into", 200_000, 100_000)
    assert {key: found[key] for key in ("packages", "taken", "too_large", "too_small", "not_reached")} == {
        "packages": 4, "taken": 2, "too_large": 1, "too_small": 1, "not_reached": 0,
    }  # fmt: skip
    copied = {path.name for path in (tmp_path / "into" / "python" / "fits").iterdir()}
    assert copied == {f"{number}.py" for number in range(40)}


def test_the_cap_holds(place: Path, tmp_path: Path) -> None:
    (found,) = copy_packages(tmp_path / "into", 60_000, 100_000)
    assert found["taken"] == 1 and found["not_reached"] == 1 and found["size_bytes"] <= 60_000


def test_a_second_copy_is_the_first(place: Path, tmp_path: Path) -> None:
    first = copy_packages(tmp_path / "into", 200_000, 100_000)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "into").rglob("*.py")}
    assert copy_packages(tmp_path / "into", 200_000, 100_000) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "into").rglob("*.py")} == times


def test_a_machine_without_packages_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_PLACES", (("nowhere", str(tmp_path / "no"), 1.0),))
    with pytest.raises(SeedError, match="--corpus"):
        copy_packages(tmp_path / "into", 1000, 1000)


def test_the_planted_solution_is_found_by_its_problem(tmp_path: Path) -> None:
    name = plant(tmp_path)
    finder = Decontamination(benchmarks=tuple(benchmark_files(())))
    ngrams, problems, _ = finder.matches((tmp_path / "planted" / "exercises.py").read_text())
    assert ngrams > 0 and problems == [f"{OWN.name}:{name}"]


def test_each_own_problem_holds_ngrams_to_be_found_by() -> None:
    finder = Decontamination(benchmarks=(str(OWN),))
    for line in OWN.read_text().splitlines():
        problem = json.loads(line)
        ngrams, problems, _ = finder.matches(problem["prompt"] + problem["canonical_solution"])
        assert ngrams > 0 and problems == [f"{OWN.name}:{problem['task_id']}"]


def test_given_benchmarks_take_the_place_of_ours(tmp_path: Path) -> None:
    assert benchmark_files((tmp_path / "b.jsonl",)) == [str(tmp_path / "b.jsonl")]


def test_new_commits_of_a_given_history_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = repository(tmp_path / "given", 5)
    monkeypatch.setattr(commits, "_prepare", lambda *_: {})
    (tmp_path / "corpora" / "commits").mkdir(parents=True)
    (tmp_path / "sources").mkdir()

    def taken() -> int:
        stages = Stages(tmp_path, Console(file=io.StringIO()))
        return commits.prepare_commits(FullConfig(tmp_path, history=given), stages)["history"]["commits"]

    assert (taken(), taken()) == (5, 5)
    made = pygit2.Repository(str(given))
    author = pygit2.Signature("A", "a@example.invalid", 1_700_000_000, 0)
    made.create_commit("HEAD", author, author, "One more", made.index.write_tree(), [made.head.target])
    assert taken() == 6


def test_benchmarks_whose_files_changed_are_searched_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "b.jsonl"
    given.write_text('{"prompt": "one"}\n')
    done: list[str] = []

    def step(name: str) -> Callable[..., dict[str, Any]]:
        return lambda *_: done.append(name) or {"digest": "same", "selected": "same"}

    for module, names in (
        (github, {"copy_packages": "", "_prepare": "code", "rate_and_score": "", "_select": ""}),
        (web, {"write_archives": "", "_prepare": "pages", "classify": "", "pick": "candidates", "rate_and_score": ""}),
    ):
        for name, called in names.items():
            monkeypatch.setattr(module, name, step(called))
    monkeypatch.setattr(web, "passing", str)

    def run() -> list[str]:
        config, stages = FullConfig(tmp_path, benchmarks=(given,)), Stages(tmp_path, Console(file=io.StringIO()))
        for corpus, folder in (("github", "packages"), ("web", "pages")):
            (tmp_path / "sources" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "corpora" / corpus).mkdir(parents=True, exist_ok=True)
            (tmp_path / "corpora" / corpus / "import.json").touch()
        done.clear()
        github.prepare_github(config, stages)
        web.prepare_web(config, stages)
        return [name for name in done if name]

    assert run() == ["code", "pages", "candidates"] and run() == []
    given.write_text('{"prompt": "another"}\n')
    assert run() == ["code", "pages", "candidates"] and run() == []
