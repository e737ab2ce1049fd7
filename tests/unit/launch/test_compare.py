"""Runs side by side: what differs, curves by tokens and by FLOPs, last numbers; whatever is missing or broken."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from launch import cli
from launch.compare import compare_command
from launch.compare.curves import smoothed, thinned, train_curves
from launch.compare.differences import differences
from launch.compare.page import render_page
from launch.compare.read import read_runs
from launch.compare.summary import lines
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.model.arithmetic import flops_per_token

HOSTILE = '<script>alert(1)</script> & " $x^2$ {{ 7 * 7 }} \x1b\u202e'
STEP_TOKENS = 4 * 512


def rows_of(steps: int, loss: float = 9.0, every: int = 1, phase: str = "main") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        if step % every:
            continue
        rows.append(
            {
                "kind": "train",
                "step": step,
                "tokens": step * STEP_TOKENS,
                "phase": phase,
                "loss": loss - step / 100,
                "learning_rate": 1e-3,
                "grad_norm": 1.0 + step % 3,
                "step_seconds": 0.5,
                "tokens_per_second": 4000.0 + step,
                "skipped": step == 3,
            }
        )
    for step in (0, steps):
        rows.append({"kind": "evaluation", "step": step, "tokens": step * STEP_TOKENS, "source": "held_out",
                     "loss": loss - step / 100, "bits_per_byte": 2.0})  # fmt: skip
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder of the quickstart recipe with overrides and rows."""

    def write(name: str, *overrides: str, rows: list[dict] | None = None, end: str = "", folder: str = "") -> Path:
        path = tmp_path / folder / name
        path.mkdir(parents=True)
        own = [f"name={yaml.safe_dump(name, default_style=chr(34)).strip()}", f"run_dir={path}"]
        own += ["phases.0.tokens=1_000_000", "phases.0.learning_rate.peak=3e-3"]
        (path / "config.yaml").write_text(dump_recipe(load_recipe("quickstart", [*own, *overrides])))
        if rows is not None:
            (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
        return path

    return write


class Structure(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(runs: list[Path], name: str, note: str = "") -> tuple[str, ...]:
    found = [line.values for line in lines(read_runs(runs)) if line.name == name and note in line.note]
    assert len(found) == 1, name
    return found[0]


def test_only_settings_that_differ_are_listed_by_the_names_of_phases_and_sources(run: Callable) -> None:
    one = run("one")
    other = run("other", "phases.0.learning_rate.peak=1e-3", "layout.tensor_parallel=1", "evaluation.held_out=[]")
    found = dict(differences([record.config for record in read_runs([one, other])]))
    assert found["phases.main.learning_rate.peak"] == ["0.003", "0.001"]
    assert found["layout.tensor_parallel"] == ["2", "1"]
    assert {key.split(".")[0] for key in found} == {"phases", "layout", "evaluation"}
    assert differences([record.config for record in read_runs([one])]) == []


def test_settings_without_names_are_addressed_by_their_place() -> None:
    configs = [{"a": [{"x": 1}, {"x": 2}], "b": [1, 2]}, {"a": [{"x": 1}], "b": [1, 3]}]
    assert differences(configs) == [("a.1.x", ["2", "–"]), ("b", ["1, 2", "1, 3"])]


def test_curves_by_flops_are_tokens_times_the_models_operations(run: Callable) -> None:
    one = run("one", rows=rows_of(20))
    other = run("other", "model.num_layers=8", rows=rows_of(20))
    records = read_runs([one, other])
    for curve, record in zip(train_curves(records, "loss", "flops"), records, strict=True):
        each = flops_per_token(record.model, 512) * STEP_TOKENS
        assert [x for x, _ in curve.points] == pytest.approx([each * step for step in range(1, 21)])
    by_tokens, _ = train_curves(records, "loss", "tokens")
    assert [x for x, _ in by_tokens.points] == [STEP_TOKENS * step for step in range(1, 21)]


def test_each_phase_has_the_operations_of_its_own_length(run: Callable) -> None:
    second = "{name: long, tokens: 20480, sequence_length: 1024, global_batch_size: 2, learning_rate: 1e-3, blend: " \
        "[{name: a, builds: b}]}"  # fmt: skip
    path = run(
        "one",
        "phases.0.learning_rate=1e-3",
        "phases.0.tokens=20480",
        rows=[*rows_of(10)[:10], *rows_of(20, phase="long")[10:20]],
    )
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["phases"].append(yaml.safe_load(second))
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (record,) = read_runs([path])
    short, long = (flops_per_token(record.model, length) for length in (512, 1024))
    assert record.spent_flops[-1] == (20 * STEP_TOKENS, pytest.approx(10 * STEP_TOKENS * (short + long)))


def test_smoothing_is_a_mean_and_thinning_keeps_every_spike() -> None:
    points = [(float(x), 0.0) for x in range(10_000)]
    points[5_003] = (5_003.0, 100.0)
    kept = thinned(points)
    assert len(kept) <= 1_100 and (5_003.0, 100.0) in kept
    assert kept[0] == points[0] and kept[-1] == points[-1] and kept == sorted(kept)
    assert smoothed([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1, 2.0), (2, 3.0), (3, 6.5)]


def test_last_numbers_and_those_where_all_are(run: Callable) -> None:
    runs = [run("one", rows=rows_of(40)), run("other", "model.num_layers=8", rows=rows_of(20, loss=8.0))]
    assert printed(runs, "steps") == ("40", "20")
    assert printed(runs, "training loss") == ("8.6000", "7.8000")
    assert printed(runs, "training loss at 40,960 tokens") == ("8.8000", "7.8000")
    assert printed(runs, "held-out held_out", "nats") == ("8.6000", "7.8000")
    assert printed(runs, "updates left out") == ("1", "1")
    assert printed(runs, "progress") == ("8.19 %", "4.1 %")
    (at_flops,) = [line for line in lines(read_runs(runs)) if line.name.endswith(" FLOPs")]
    # Eight layers spend about twice what four do: the other run has all of its steps, this one some more than 20.
    assert at_flops.values[1] == "7.8000" and 8.6 < float(at_flops.values[0]) < 8.8


def test_a_run_in_progress_with_a_cut_off_line_counts_what_is_whole(run: Callable) -> None:
    runs = [run("one", rows=rows_of(20), end='{"kind": "train", "step": 21, "tok'), run("other", rows=rows_of(30))]
    assert printed(runs, "steps") == ("20", "30")
    assert "by tokens" in render_page(read_runs(runs))


def test_steps_done_again_count_once_and_values_that_are_no_numbers_not_at_all(run: Callable) -> None:
    again = [{**row, "loss": 5.0} for row in rows_of(20)[10:20]]
    broken = [{"kind": "train", "step": 21, "tokens": 21 * STEP_TOKENS, "phase": "main", "loss": None},
              {"kind": "train", "step": None}, {"kind": "train"}, ["no", "row"], 7]  # fmt: skip
    (record,) = read_runs([run("one", rows=[*rows_of(20), *again, *broken])])
    (curve,) = train_curves([record], "loss", "tokens")
    assert [y for _, y in curve.points[-10:]] == [5.0] * 10 and len(curve.points) == 20
    assert printed([record.path], "steps") == ("21",)


def test_what_is_not_finite_is_no_number_of_a_run(run: Callable, tmp_path: Path) -> None:
    rows = [{**row, "tokens_per_second": 100.0, "step_seconds": 1.0} for row in rows_of(20)]
    rows[5] |= {"tokens_per_second": math.inf, "step_seconds": math.nan}
    rows[6] |= {"tokens_per_second": math.nan}
    path = run("one", rows=rows)
    assert printed([path], "tokens per second") == ("100",)
    compare_command([path], tmp_path / "page.html", Console(file=io.StringIO()))


def test_missing_parts_are_named_and_the_rest_is_shown(run: Callable, tmp_path: Path) -> None:
    whole, settings_only = run("whole", rows=rows_of(20)), run("settings_only")
    rows_only = run("rows_only", rows=rows_of(20))
    (rows_only / "config.yaml").unlink()
    damaged = run("damaged", rows=rows_of(20))
    (damaged / "config.yaml").write_text("name: [")
    records = read_runs([whole, settings_only, rows_only, damaged])
    remarks = [" ".join(record.remarks) for record in records]
    assert remarks[0] == ""
    assert "no training steps recorded yet" in remarks[1]
    assert "config.yaml cannot be read" in remarks[2] and "config.yaml cannot be read" in remarks[3]
    text = Structure(render_page(records)).text
    assert "no training steps recorded yet" in text and "Not known for rows_only, damaged" in text
    assert [curve.label for curve in train_curves(records, "loss", "flops")] == ["whole"]
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(SeedError, match=rf"{place.name}: no run folder"):
            read_runs([whole, place])


def test_settings_of_another_version_are_shown_as_they_stand(run: Callable) -> None:
    old, new = run("old", rows=rows_of(20)), run("new", rows=rows_of(20))
    config = yaml.safe_load((old / "config.yaml").read_text())
    config |= {"abandoned": 5, "phases": [*config["phases"], "nonsense"]}
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    records = read_runs([old, new])
    assert "another version" in records[0].remarks[0]
    assert ("abandoned", ["5", "–"]) in differences([record.config for record in records])
    assert len(train_curves(records, "loss", "flops")) == 2
    # What an older run does not know has today's default.
    del config["abandoned"], config["phases"][-1], config["watchdog"]
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    assert differences([record.config for record in read_runs([old, new])]) == []


def test_other_tokenizers_are_compared_by_bytes(run: Callable) -> None:
    alike = render_page(read_runs([run("one", rows=rows_of(20)), run("other", rows=rows_of(20))]))
    unlike = render_page(read_runs([run("a", rows=rows_of(20)), run("b", "model.vocab_size=4096", rows=rows_of(20))]))
    assert "bits per byte do" in unlike and "bits per byte do" not in alike
    assert "bits per byte by" not in alike
    drawings = re.findall(r'<svg[^>]*id="held-out-0-tokens-wide".*?</svg>', unlike, re.DOTALL)
    assert len(drawings) == 1 and "bits per byte" in drawings[0]


def test_runs_of_one_name_are_told_apart_by_their_folders(run: Callable) -> None:
    runs = [run("same", rows=rows_of(9), folder="x"), run("same", rows=rows_of(9), folder="y"), run("own", rows=[])]
    assert [record.label for record in read_runs([*runs, runs[0]])] == ["x/same", "y/same", "own"]


def test_hostile_text_never_becomes_markup(run: Callable) -> None:
    def page(text: str) -> Structure:
        event = {"kind": "event", "step": 3, "event": f"odd{text}", "time": 1.79e9, f"fact{text}": f"x{text}"}
        rows = [{**row, "source": f"s{text}"} if row["kind"] == "evaluation" else row for row in rows_of(20)]
        path = run(f"n{len(text)}", rows=[*rows, event])
        config = yaml.safe_load((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(yaml.safe_dump({**config, "name": f"n{text}", "seed": 5}))
        other = run(f"m{len(text)}", f"phases.0.blend.0.name={json.dumps('other' + text)}", rows=rows_of(20))
        return Structure(render_page(read_runs([path, other])))

    plain, changed = page(""), page(HOSTILE)
    assert changed.tags == plain.tags
    assert [name for name, _ in changed.attributes] == [name for name, _ in plain.attributes]
    assert changed.text.count("<script>alert(1)</script>") > 5


def test_nothing_is_loaded_and_ids_are_unique(run: Callable) -> None:
    runs = [run(f"run{number}", rows=rows_of(20)) for number in range(10)]
    page = render_page(read_runs(runs))
    structure = Structure(page)
    assert not re.search(r"https?://|@import|javascript:", page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(structure.tags)
    ids = [value for name, value in structure.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
    # Ten runs, eight colours: the ninth and tenth are dashed.
    assert page.count('class="key dashed"') >= 2 and "var(--run-8)" in page


def test_equal_runs_give_equal_bytes(run: Callable) -> None:
    runs = [run("one", rows=rows_of(20)), run("other", rows=rows_of(30))]
    assert render_page(read_runs(runs)) == render_page(read_runs(runs))


def test_the_command_writes_the_page_and_says_the_numbers(run: Callable, tmp_path: Path) -> None:
    runs = [run("one", rows=rows_of(20)), run("other", "seed=7", rows=rows_of(30))]
    out = tmp_path / "made" / "page.html"
    result = CliRunner().invoke(cli.app, ["compare", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("<!DOCTYPE html>")
    for said in ("8.8000", "8.7000", "settings that differ", "seed", "1234", "7", "wrote"):
        assert said in result.output
    screen = io.StringIO()
    compare_command(runs[:1], out, Console(file=screen, width=100))
    assert "settings that differ" not in screen.getvalue()
