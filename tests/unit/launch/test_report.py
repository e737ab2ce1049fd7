"""The page at the end of a run: every number, every drop, and no markup but its own."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.levels import deduplicate
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.report import corpus_report
from data_prep.report.formats import count, decimal, duration, percent, size, visible
from data_prep.report.waterfall import below_cap, waterfall
from data_prep.select import load_config, select
from launch.report import write_report
from launch.report.page import TOP_LANGUAGES, render_page

HOSTILE = "<script>alert(1)</script> \" ' & <!-- --> </style> </svg> ]]> {{ 7 * 7 }} $x^2$ \x00\x1b\u202e"


def amount(documents: int, size_bytes: int) -> dict:
    return {"documents": documents, "size_bytes": size_bytes}


def drop(number: int, size_bytes: int, *examples: str) -> dict:
    return {"count": number, "size_bytes": size_bytes, "examples": list(examples), "meaning": f"dropped {number} times"}


def data_results() -> dict:
    languages = {"Python": {"in": amount(1400, 9_000_000), "train": amount(1200, 8_000_000), "held_out": amount(90, 5)}}
    languages |= {
        f"Language {index}": {"in": amount(5, 50 - index), "train": amount(5, 50 - index), "held_out": amount(0, 0)}
        for index in range(20)
    }
    return {
        "import": {
            "documents": 1500,
            "text_bytes": 9_200_000,
            "languages": {"Python": {"documents": 1500, "text_bytes": 9_200_000}},
            "drops": {
                "empty": drop(7, 0, "email/mime/__init__.py"),
                "total_size": drop(40_000, 70_000_000, "zz/last.py"),
                "unknown_language": drop(321, 12_345_678, "LICENSE", "Setup.local"),
            },
        },
        "selection": {
            "name": "main",
            "documents_in": amount(1500, 9_200_000),
            "dropped": [
                {"rule": "exact_duplicate", "drop": "exact_dedup.duplicate_of IS NOT NULL", **amount(47, 16_850)},
                {"rule": "short", "drop": "documents.size_bytes < 40", **amount(11, 275)},
            ],
            "left": {
                "train": {"repositories": 71, **amount(1352, 8_700_000)},
                "held_out": {"repositories": 1, **amount(90, 466_984)},
            },
            "languages": languages,
        },
        "repositories": [
            {"source": "lib", "repository": "numpy", "split": "train", **amount(893, 10_540_000)},
            {"source": "lib", "repository": "email", "split": "held_out", **amount(90, 466_984)},
        ],
    }


def training_results() -> dict:
    return {
        "processes": 2,
        "layout": {"tensor_parallel": 2, "pipeline_parallel": 1, "sequence_parallel": True},
        "device": "CPU",
        "steps": 400,
        "tokens": 3_276_800,
        "seconds": 471.3,
        "tokens_per_second": 6973.2,
        "unigram_entropy": 6.587,
        "held_out": [
            {"step": 0, "tokens": 0, "loss": 9.04, "bits_per_byte": 4.063},
            {"step": 400, "tokens": 3_276_800, "loss": 3.41, "bits_per_byte": 1.533},
        ],
        "curve": [
            {"step": step, "tokens": step * 8192, "loss": 9.0 - step / 80, "learning_rate": 1e-3 * step / 400}
            for step in range(1, 401, 20)
        ],
    }


def full_results() -> dict:
    return {
        "name": "quickstart",
        "finished": "2026-11-23 12:00",
        "machine": "2 cores, x86_64, CPU over gloo",
        "versions": {"torch": "2.13.0", "duckdb": "2.0.0"},
        "corpus": {"sources": ["/usr/lib/python3.11"], "cap_bytes": 48_000_000},
        "data": data_results(),
        "tokenizer": {"kind": "sentencepiece", "vocab_size": 8192, "bytes_per_token": 3.1},
        "builds": [{"split": "train", "fim_rate": 0.5, "epoch": 0, "tokens": 18_154_331, **amount(1352, 8_700_000)}],
        "model": {"parameters": 5_243_136, "num_layers": 4, "hidden_size": 256, "vocab_size": 8192},
        "training": training_results(),
        "export": {"path": "runs/hf", "checks": [{"name": "tensors equal", "value": "57 tensors", "passed": True}]},
        "samples": [
            {"kind": "completion", "prefix": "def add(a, b):\n", "output": "    return a + b\n"},
            {"kind": "infilling", "prefix": "FIRST\n", "suffix": "\nTHIRD", "output": "SECOND"},
        ],
        "seconds": {"import": 14.1, "train": 471.3, "export": None},
    }


CHARTED = ("data", "training")


def without_charts() -> dict:
    """Drawing takes most of a page's time."""
    return full_results() | dict.fromkeys(CHARTED)


class Structure(HTMLParser):
    """Tags, attributes and text of a page as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(full_results())


# fmt: off
SHOWN = (
    "1,500 → 1,352", "3,276,800", "6,973", "9.04 → 3.41", "4.06 → 1.53", "6.59", "9.01", "Proven", "1 of 1 checks",
    "41,828", "−40,000", "70.00 MB", "1,828", "−321", "12.35 MB", "LICENSE, Setup.local", "dropped 321 times", "−47",
    "16.9 kB", "exact_dedup.duplicate_of IS NOT NULL", "−11", "71 whole repositories", "1 whole repository;",
    "9 more languages", "numpy", "10.54 MB", "held-out test", "8,192", "3.10", "50 %", "18,154,331", "5,243,136",
    "7 min 51 s", "tensor parallel", "sequence parallel", "48.00 MB", "14.1 s", "97.1 %", "2.13.0", "57 tensors",
    "unigram entropy", "runs/hf", "2026-11-23 12:00",
)
# fmt: on


@pytest.mark.parametrize("words", SHOWN)
def test_the_page_shows(page: str, words: str) -> None:
    assert words in re.sub(r"\s+", " ", Structure(page).text)


def test_stages_of_one_process_are_not_called_parallel(page: str) -> None:
    assert "pipeline parallel" not in page


@pytest.mark.parametrize("stage", full_results())
def test_renders_without_a_stage(stage: str) -> None:
    results = full_results() if stage in CHARTED else without_charts()
    assert render_page(results | {stage: None}).endswith("</html>\n")


@pytest.mark.parametrize("results", [{}, {"name": "quickstart"}, dict.fromkeys(full_results())])
def test_renders_with_almost_nothing(results: dict) -> None:
    structure = Structure(render_page(results))
    assert "No Hugging Face model was written" in structure.text
    assert "svg" not in structure.tags


def test_renders_stages_of_which_little_is_known() -> None:
    results = full_results()
    results["data"]["selection"] = None
    results |= {"training": {"steps": 3}, "tokenizer": {}, "builds": [{"split": "train"}], "export": {"path": "hf"}}
    results |= {"model": {"num_layers": None}, "samples": [{"prefix": "x"}], "seconds": {"import": 0.0}}
    text = Structure(render_page(results)).text
    assert "1,500 imported" in re.sub(r"\s+", " ", text) and "1,352" not in text
    assert "Unchecked" in text and "(nothing)" in text


@pytest.mark.parametrize("passed", [False, None, "yes"])
def test_an_export_is_proven_only_when_every_check_passed(passed: object) -> None:
    results = without_charts()
    results["export"]["checks"].append({"name": "logits", "value": "0.5", "passed": passed})
    text = Structure(render_page(results)).text
    assert "Not proven" in text and "1 of 2 checks" in text
    assert ("failed" if passed is False else "not run") in text


def test_loss_is_good_only_below_the_unigram_entropy(page: str) -> None:
    results = full_results() | {"data": None}
    results["training"]["unigram_entropy"] = 3.4
    assert page.count('class="tile good"') == 2
    assert render_page(results).count('class="tile bad"') == 1


def test_loss_that_is_not_finite_is_left_out_of_the_chart() -> None:
    results = full_results() | {"data": None}
    for loss in (math.nan, math.inf, None):
        results["training"]["curve"].append({"step": 401, "tokens": 3_284_992, "loss": loss, "learning_rate": 1e-3})
    description = "Training loss goes from 8.99 to 4.24 nats per token; held-out loss goes from 9.04 to 3.41"
    assert description in render_page(results)


def test_infilling_stands_between_what_was_given(page: str) -> None:
    given = '<span class="given">'
    assert f'{given}FIRST\n</span><ins class="written">SECOND</ins>{given}\nTHIRD</span>' in page


def hostile(value: object, text: str) -> object:
    """The same value with `text` appended to every string and to every key that comes from outside."""
    if isinstance(value, str):
        return value if value == "exact_duplicate" else value + text  # a rule that has a meaning by its name
    if isinstance(value, list):
        return [hostile(entry, text) for entry in value]
    if not isinstance(value, dict):
        return value
    named = {"Python", "torch", "duckdb", "unknown_language", "empty"}
    return {key + text if key in named else key: hostile(entry, text) for key, entry in value.items()}


def test_hostile_text_never_becomes_markup(page: str) -> None:
    changed = render_page(hostile(full_results(), HOSTILE))
    before, after = Structure(page), Structure(changed)
    assert after.tags == before.tags
    assert [name for name, _ in after.attributes] == [name for name, _ in before.attributes]
    assert after.text.count("<script>alert(1)</script>") > 40
    assert "{{ 7 * 7 }} $x^2$ ␀␛⟨U+202E⟩" in after.text


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_text_changes_the_structure(text: str) -> None:
    results = without_charts()
    plain, changed = Structure(render_page(results)), Structure(render_page(hostile(results, text)))
    assert (changed.tags, changed.attributes) == (plain.tags, plain.attributes)


@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_can_be_written_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
    assert visible(shown) == shown


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    structure = Structure(page)
    assert not re.search(r"https?://|@import|javascript:", page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(structure.tags)
    assert not structure.values("src")
    assert all(target.startswith("#") for target in structure.values("href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    structure = Structure(page)
    ids = structure.values("id")
    assert len(ids) == len(set(ids))
    targets = structure.values("aria-labelledby") + structure.values("aria-describedby")
    targets += [target[1:] for target in structure.values("href") + re.findall(r"url\(([^)]*)", page)]
    assert set(targets) <= set(ids) and len(targets) > 8


def test_charts_follow_the_style_sheet(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert drawings.count("<title ") == 4
    assert "var(--train)" in drawings and "font-family" not in drawings
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) == set()


def test_equal_results_give_equal_bytes(tmp_path: Path, page: str) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9}):
        write_report(copy.deepcopy(full_results()), tmp_path / "a.html")
    write_report(json.loads(json.dumps(full_results())), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes() == page.encode()


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.html"
    write_report({"name": "first"}, path)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_report({"data": {"import": {"drops": {}}}}, path)
    assert path.read_bytes() == before
    write_report({"name": "second"}, path)
    assert b"second" in path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_each_drop_leaves_from_the_amount_before_it() -> None:
    steps = waterfall(full_results()["data"])
    level = steps[0].documents
    for step in steps:
        if step.kind in ("drop", "held_out"):
            level -= step.documents
            assert step.start == level
        else:
            assert (step.start, step.documents) == (0, level)
    assert [step.label for step in steps[:3]] == ["found in the sources", "past the size cap", "within the size cap"]
    assert below_cap(steps) == steps[2:]
    assert below_cap(below_cap(steps)) == steps[2:]


def test_what_has_no_size_is_not_counted_as_empty() -> None:
    results = full_results()
    drops = results["data"]["import"]["drops"]
    drops["unknown_language"] |= {"without_size": 21}
    drops["ignored_folder"] = drop(3, 0) | {"without_size": 3}
    drops["empty"] |= {"without_size": 0}
    steps = {step.label: (step.size_bytes, step.without_size) for step in waterfall(results["data"])}
    assert steps["found in the sources"] == (9_200_000 + 70_000_000 + 12_345_678, 24)
    assert steps["past the size cap"] == (70_000_000, 0) and steps["within the size cap"][1] == 24
    assert steps["unknown language"] == (12_345_678, 21)
    assert steps["ignored folder"] == (None, 3) and steps["empty"] == (0, 0)
    assert steps["imported"] == (9_200_000, 0)
    text = Structure(render_page(results)).text
    assert "24 without a size" in text and "21 without a size" in text and "3 without a size" in text
    del drops["unknown_language"]["without_size"], drops["ignored_folder"]["without_size"]  # by an earlier version
    earlier = {step.label: step.without_size for step in waterfall(results["data"])}
    assert (earlier["unknown language"], earlier["ignored folder"]) == (0, 3)


def test_a_few_languages_are_all_shown_at_once() -> None:
    results = full_results() | {"training": None}
    languages = results["data"]["selection"]["languages"]
    for name in list(languages)[TOP_LANGUAGES + 1 :]:
        del languages[name]
    assert "details" not in Structure(render_page(results)).tags


def test_a_real_corpus_is_shown(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        folder = tmp_path / "code" / name
        folder.mkdir(parents=True)
        (folder / "main.py").write_text(f"def {name}():\n    return {name!r}\n")
        (folder / "same.py").write_text("import os\n\nprint(os.getcwd())\n")
        (folder / "empty.py").write_text("\n")
    corpus = tmp_path / "corpus"
    import_documents([SourceSpec("folders", str(tmp_path / "code"), "code")], corpus, ImportLimits(), 1)
    deduplicate(corpus, 1)
    select(corpus, "main", load_config(None, {"held_out": {"fraction": 0.3}}))
    data = corpus_report(corpus, "main")
    steps = {step.label: step.documents for step in waterfall(data)}
    assert (steps["found in the sources"], steps["empty"], steps["imported"], steps["exact duplicate"]) == (9, 3, 6, 2)
    assert steps["trained on"] + steps["held out"] == 4
    text = Structure(render_page({"data": data})).text
    assert f"6 → {steps['trained on']}" in text and "one/empty.py" in text and "Python" in text


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (count(1234567.4), "1,234,567"),
        (count(None), "–"),
        (decimal(3.14159, 3), "3.142"),
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(12_345), "12.3 kB"),
        (size(58_290_000), "58.29 MB"),
        (size(1.2e12), "1,200.00 GB"),
        (duration(4.14), "4.1 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(192), "3 min 12 s"),
        (duration(7500), "2 h 05 min"),
        (percent(0.5), "50 %"),
        (percent(0.001), "0.1 %"),
    ],
)
def test_numbers_are_printed_with_units(printed: str, expected: str) -> None:
    assert printed == expected
