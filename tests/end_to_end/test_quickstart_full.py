"""All of the recipe in small: what it leaves, that a killed run ends as one that never was, and what the page says."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from full_runs import EVERY_STEPS, STEPS, full_command, write_history
from quickstart_runs import digests, environment, leftovers, run_command, times, write_corpus, written
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLED_IN = ("github", "github scorer", "commits", "web recall", "high quality", "builds", "train", "export")
DATA = ("documents", "annotations", "selections")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("code") / "repositories")


@pytest.fixture(scope="module")
def history(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_history(tmp_path_factory.mktemp("git") / "history", corpus)


@pytest.fixture(scope="module")
def finished(corpus: Path, history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("full") / "run"
    run_to_the_end(full_command(corpus, history, run_dir))
    return run_dir


def run_to_the_end(command: list[str]) -> str:
    result = run_command(command, timeout_s=1200)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return result.stdout


def results(run_dir: Path) -> dict:
    return {name: record["result"] for name, record in json.loads((run_dir / "stages.json").read_text()).items()}


def metrics(run_dir: Path, kind: str) -> list[dict]:
    rows = map(json.loads, (run_dir / "train" / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def test_every_phase_is_trained_as_the_recipe_says(finished: Path) -> None:
    rows = metrics(finished, "train")
    taken = {name: [row["step"] for row in rows if row["phase"] == name] for name in STEPS}
    assert {name: len(steps) for name, steps in taken.items()} == STEPS
    rates = {row["phase"]: row["learning_rate"] for row in rows}
    assert rates["code"] / rates["high_quality"] == pytest.approx(10**0.5, rel=1e-6)
    assert rates["code"] / rates["long_context"] == pytest.approx(10, rel=1e-6)
    recipe = results(finished)["train"]["phases"]
    assert recipe[-1]["sequence_length"] == 8 * recipe[0]["sequence_length"]


def test_every_category_is_held_out_and_learnt(finished: Path) -> None:
    rows = metrics(finished, "evaluation")
    assert {row["step"] for row in rows} == {*range(0, sum(STEPS.values()) + 1, EVERY_STEPS), sum(STEPS.values())}
    for source in ("github", "infilling", "web", "math_web", "commits", "repositories"):
        losses = [row["loss"] for row in rows if row["source"] == source]
        assert losses[-1] < losses[0] - 0.2, source


def test_nothing_held_out_is_trained_on(finished: Path) -> None:
    import pyarrow.parquet as pq

    def documents(category: str, split: str) -> set[str]:
        paths = (finished / "builds" / category).glob(f"{split}-*.provenance.parquet")
        return {one for path in paths for one in pq.read_table(path, columns=["id"])["id"].to_pylist()}

    for category in ("github", "web", "math_web"):
        assert documents(category, "train") and not documents(category, "train") & documents(category, "held_out")
    for split in ("train", "held_out"):  # a page is of one of the two
        assert not documents("web", split) & (documents("math_web", "train") | documents("math_web", "held_out"))
    held_out = documents("github", "held_out")
    assert not held_out & (documents("high_quality", "train") | documents("long_files", "train"))
    strings = (finished / "corpora" / "repositories-train" / "composition").glob("*.parquet")
    files = {one for path in strings for one in pq.read_table(path, columns=["id"])["id"].to_pylist()}
    assert files and not held_out & files
    for category in ("commits", "repositories"):
        trained, kept = documents(category, "train"), documents(f"{category}_held_out", "train")
        assert trained and kept and not trained & kept


def test_what_was_planted_is_found_and_left_out(finished: Path) -> None:
    found = results(finished)
    assert found["github"]["planted"] == "own/0"
    (rule,) = [rule for rule in found["github selection"]["dropped"] if rule["rule"] == "contaminated"]
    assert rule["documents"] == 1


def test_the_scorer_is_better_than_a_guess(finished: Path) -> None:
    for name in ("github", "web"):
        measured = results(finished)[f"{name} scorer"]["measured"]
        assert measured["mae"] < measured["mean_predictor_mae"], name


def test_the_export_is_proved(finished: Path) -> None:
    assert all(check["passed"] is True for check in results(finished)["export"]["checks"])
    kinds = [sample["kind"] for sample in results(finished)["generate"]]
    assert kinds == ["completion", "infilling", "change of a commit"]


class Outline(HTMLParser):
    """Ids, links and whatever could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [values["href"]] if tag == "a" and values.get("href") else []
        if tag in ("script", "link", "iframe", "object", "img") or "src" in values:
            self.foreign.append(tag)


def test_the_page_follows_the_report_and_needs_nothing_else(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert not outline.foreign and len(outline.ids) == len(set(outline.ids))
    inside = [link.removeprefix("#") for link in outline.links if link.startswith("#")]
    assert set(inside) <= set(outline.ids)
    for where in ("2.2.1", "2.2.2", "2.2.3", "2.2.4", "2.2.5", "2.2.6", "2.3", "4", "5"):
        assert f'<span class="where">{where}</span>' in page
    others = [link for link in outline.links if not link.startswith("#")]
    assert others and all((finished / link).is_file() for link in others)


def test_the_page_tells_what_happened(finished: Path) -> None:
    page = html.unescape((finished / "report.html").read_text(encoding="utf-8"))
    found = results(finished)
    measured = found["github scorer"]["measured"]
    for number in (f"{measured['mae']:.2f}", f"{measured['class_mae']:.2f}", "own/0", "stand-in"):
        assert number in page
    for phase in found["train"]["phases"]:
        for source in ("github", "web", "math_web", "commits", "repositories"):
            assert f"{phase['held_out'][source]['loss']:.3f}" in page
    assert found["commits"]["example"]["target"].splitlines()[0] in page
    assert '<h2 id="math-web"><span class="where">2.3</span>Mathematical web</h2>' in page
    assert f"{found['math scorer']['measured']['mae']:.2f}" in page


def test_run_again_it_repeats_nothing(corpus: Path, history: Path, finished: Path) -> None:
    made = ("builds", "tokenizer", "train", "hf", "mixtures", "scorers")
    before = {name: times(finished / name) for name in made}
    output = run_to_the_end(full_command(corpus, history, finished))
    assert {name: times(finished / name) for name in made} == before
    done = re.findall(r"^([\w ]+): done before$", output, re.MULTILINE)
    assert set(results(finished)) - set(done) == {"github"}  # a folder of the user's is looked at each time


def test_a_killed_run_ends_as_one_that_never_was(
    corpus: Path, history: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    for stage in KILLED_IN:
        kill_in(stage, full_command(corpus, history, run_dir), run_dir.with_name("output.txt"))
    run_to_the_end(full_command(corpus, history, run_dir))
    ours, theirs = (load_file(one / "hf" / "model.safetensors") for one in (run_dir, finished))
    assert ours.keys() == theirs.keys() and [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert digests(run_dir / "builds") == digests(finished / "builds")
    for made in sorted((finished / "corpora").glob(f"*/{DATA[0]}/*.parquet")):
        same = run_dir / made.relative_to(finished)
        assert same.read_bytes() == made.read_bytes(), made
    assert leftovers(run_dir) == []


def kill_in(stage: str, command: list[str], output: Path, timeout_s: float = 400.0) -> None:
    """Starts a run and kills it and all that it started, soon after it says that it begins a stage."""
    with output.open("w") as stream:
        process = subprocess.Popen(
            command, env=environment(), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + timeout_s
        while f"\n{stage} ──" not in written(output):
            assert process.poll() is None, written(output)[-4000:]
            assert time.monotonic() < deadline, f"{stage} did not begin"
            time.sleep(0.02)
        time.sleep(1.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
