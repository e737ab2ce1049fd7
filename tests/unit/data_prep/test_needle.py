"""Needle in the code: lengths to the token, depths to the line, answers that stand in one place."""

import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from tree_sitter_language_pack import get_parser
from typer.testing import CliRunner

from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.needle.pool import Place, Smallest
from data_prep.needle.run import write_needles
from data_prep.needle.sample import Haystack, make_sample
from data_prep.needle.settings import NeedleSettings
from data_prep.needle.templates import TEMPLATES, Needle, needle_of
from data_prep.select import SelectionConfig, select
from data_prep.settings import load_settings
from data_prep.texts import selected_texts
from tokenizer.encode import Encoder
from tokenizer.train import TrainSettings, train

SMALL = {"lengths": (600, 1500), "depths": (0, 1, 33.3, 50, 99, 100), "samples": 2}
GRAMMARS = {"C#": "csharp", "C++": "cpp", "Shell": "bash"}


def a_haystack(encoder: Encoder, **changes) -> Haystack:
    """Files of the standard library, and files of another language between them."""
    names = ["argparse.py", "bisect.py", "calendar.py", "cmd.py", "copy.py", "dis.py", "heapq.py", "queue.py"]
    files = []
    for number, name in enumerate(names):
        text = (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")
        files.append({"id": name, "source": "s", "repository": f"r{number % 3}", "path": name, "text": text})
        go = f"package p{number}\n\n" + "".join(f"func F{i}() int {{\n\treturn {i}\n}}\n" for i in range(60))
        files.append(
            {"id": f"{name}.go", "source": "s", "repository": f"r{number % 3}", "path": f"{name}.go", "text": go}
        )
    for file in files:
        file["language"] = "Go" if file["path"].endswith(".go") else "Python"
    return Haystack(files, encoder, NeedleSettings(**SMALL | changes))


@pytest.fixture(scope="session")
def real_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers of both kinds, trained on Python files of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8") for path in sorted(library.glob("[a-f]*.py"))[:40]]
    found = {}
    for kind in ("sentencepiece", "byte_bpe"):
        found[kind] = tmp_path_factory.mktemp("needle") / kind
        train(texts, found[kind], TrainSettings(2000, kind, max_chars=1_000_000, seed=1))
    return found


@pytest.fixture(scope="session", params=["sentencepiece", "byte_bpe"])
def encoder(request: pytest.FixtureRequest, real_tokenizers: dict[str, Path]) -> Encoder:
    return Encoder.load(real_tokenizers[request.param])


def check(haystack: Haystack, row: dict) -> None:
    """What must be true of every row."""
    prompt, needle, count = row["prompt"], row["needle"], haystack.count
    assert count(prompt) == row["tokens"] == row["length"] - haystack.settings.answer_tokens
    assert prompt.count(row["answer"]) == 1 and row["answer"] in needle["text"]
    assert prompt.count(needle["name"]) == 2 and prompt.index(needle["name"]) < needle["end"]
    assert prompt[needle["start"] : needle["end"]] == needle["text"]
    assert needle["start"] == 0 or prompt[needle["start"] - 1] == "\n"
    question = prompt[prompt.rindex("\n") + 1 :]
    assert needle["name"] in question and question.endswith('"')
    code = prompt[: needle["start"]] + prompt[needle["end"] :]
    code = code[: code.rindex("\n", 0, code.rindex("\n"))]  # without the question
    whole, before = count(code), count(prompt[: needle["start"]])
    assert needle["tokens_before"] == before
    lines = prompt[: needle["start"]].split("\n")[-2:] + prompt[needle["end"] :].split("\n")[:1]
    tolerance = max(count(line + "\n") for line in lines)
    assert abs(before - row["depth"] / 100 * whole) <= tolerance + 3
    assert abs(needle["depth"] - 100 * before / whole) < 0.5
    assert row["depth"] not in (0, 100) or needle["depth"] == row["depth"]


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([600, 1500, 4096]), st.one_of(st.integers(0, 100), st.floats(0, 100)))
def test_length_depth_and_answer(encoder: Encoder, index: int, length: int, depth: float) -> None:
    haystack = a_haystack(encoder)
    row = make_sample(haystack, length, depth, index)
    check(haystack, row)
    assert row == make_sample(a_haystack(encoder), length, depth, index)
    assert all(f"/{file['path']}\n" in row["prompt"] for file in row["files"][1:])  # the first may be cut
    language = "Go" if "func " in row["needle"]["text"] else "Python"
    assert row["language"] == language


def test_another_key_gives_another_sample(encoder: Encoder) -> None:
    haystack = a_haystack(encoder)
    asked = [(length, depth, index) for length in (600, 700) for depth in (40, 50) for index in range(3)]
    rows = [make_sample(haystack, *key) for key in asked]
    rows.append(make_sample(a_haystack(encoder, seed=2), 600, 40, 0))
    assert len({row["answer"] for row in rows}) == len(rows)
    assert len({tuple(file["id"] for file in row["files"]) for row in rows}) > 4


def test_the_needle_is_in_the_language_of_its_file(encoder: Encoder) -> None:
    haystack = a_haystack(encoder)
    for index in range(12):
        row = make_sample(haystack, 1500, 50, index)
        headers = [line for line in row["prompt"][: row["needle"]["start"]].split("\n") if "file: r" in line]
        if headers:
            assert row["language"] == ("Go" if headers[-1].startswith("//") else "Python")
            assert headers[-1].endswith(".go") == (row["language"] == "Go")
    assert {make_sample(haystack, 600, 50, index)["language"] for index in range(20)} == {"Python", "Go"}


@pytest.mark.parametrize("language", TEMPLATES)
def test_needles_are_what_their_language_accepts(language: str) -> None:
    """Needle and question, with the answer and what closes it, have no syntax error of their own."""
    needle = Needle("amber_basil_10", "12345678")
    parser = get_parser(GRAMMARS.get(language, language.lower()))
    text = needle.text(language)
    wrapped = {
        "Java": "class A {\n%s}\n",
        "C#": "class A {\n%s}\n",
        "PHP": "<?php\n%s",
    }.get(language, "%s") % text
    assert not parser.parse(wrapped.encode()).root_node.has_error, wrapped
    assert needle.value in text and needle.name in text
    ends = {"Go": '" {\n}', "Lua": '")', "Python": '"', "Ruby": '"', "Shell": '"', "C": '") == 0);', "Java": '");'}
    body = needle.question(language) + needle.value + ends.get(language, '");')
    if language == "Scala":
        body = body.removesuffix(";")
    frames = {
        "C": "void f(void) {\n%s\n}\n",
        "C#": "class A { void f() {\n%s\n} }\n",
        "C++": "void f() {\n%s\n}\n",
        "Go": "package p\nfunc f() {\n%s\n}\n",
        "Java": "class A { void f() {\n%s\n} }\n",
        "Rust": "fn f() {\n%s\n}\n",
        "PHP": "<?php\n%s",
        "Scala": "object A {\n%s\n}\n",
    }
    framed = frames.get(language, "%s\n") % body
    assert not parser.parse(framed.encode()).root_node.has_error, framed


@given(st.text())
def test_names_and_values_have_one_form(key: str) -> None:
    needle = needle_of(key)
    assert needle == needle_of(key)
    assert needle.name.isidentifier() and len(needle.value) == 8 and needle.value.isdigit()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The standard library's packages, each a repository, a fifth of them held out."""
    corpus, sources = tmp_path_factory.mktemp("needle") / "corpus", tmp_path_factory.mktemp("sources")
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("asyncio", "json", "email", "http", "logging", "unittest", "xml", "ctypes", "curses", "html"):
        (sources / name).mkdir()
        for path in (library / name).glob("*.py"):
            (sources / name / path.name).write_bytes(path.read_bytes())
    import_documents([SourceSpec("auto", str(sources), "library")], corpus, ImportLimits(shard_bytes=1 << 18), 1)
    split = {"fraction": 0.3, "seed": 3, "minimum_repositories": 2}
    select(corpus, "main", SelectionConfig.model_validate({"rules": [], "held_out": split}))
    return corpus


def test_the_data_set_is_of_the_held_out_side(corpus: Path, real_tokenizers: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["needle", str(corpus), str(tmp_path / "out"), "--tokenizer", str(real_tokenizers["byte_bpe"])]
    asked = ["--set", "lengths=[600,2000]", "--set", "depths=[0,50,100]", "--set", "samples=3", "--workers", "2"]
    result = CliRunner().invoke(app, arguments + asked)
    assert result.exit_code == 0, result.output
    assert "18 prompts (2 lengths x 3 depths x 3)" in result.output and "needles in Python 18" in result.output
    about = json.loads((tmp_path / "out" / "needle.json").read_text())
    rows = [json.loads(line) for name in about["files"] for line in (tmp_path / "out" / name).read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == about["prompts"] == 18
    encoder = Encoder.load(real_tokenizers["byte_bpe"])
    haystack = Haystack([], encoder, NeedleSettings())
    trained_on = "\0".join(selected_texts(corpus, "main", "train"))
    held_out = "\0".join(selected_texts(corpus, "main", "held_out"))
    theirs = AutoTokenizer.from_pretrained(real_tokenizers["byte_bpe"], local_files_only=True)
    for row in rows:
        check(haystack, row)
        assert len(theirs(row["prompt"], split_special_tokens=True)["input_ids"]) == row["tokens"]
        line = max(row["prompt"][: row["needle"]["start"]].split("\n")[1:] or [""], key=len)
        assert line in held_out and (len(line) < 60 or line not in trained_on)
        for file in row["files"]:
            assert file["source"] == "library"


def test_bytes_depend_neither_on_shards_nor_on_workers(
    corpus: Path, real_tokenizers: dict[str, Path], tmp_path: Path, snapshot
) -> None:
    settings = NeedleSettings(lengths=(600, 900), depths=(10, 90), samples=2, pool_bytes=150_000)
    tokenizer = real_tokenizers["sentencepiece"]
    write_needles(corpus, tmp_path / "one", "main", tokenizer, settings, 1)
    write_needles(corpus, tmp_path / "two", "main", tokenizer, settings, 2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert len(list_shards(corpus)) > 1
    (tmp_path / "two" / "needle-900.jsonl").unlink()
    before = (tmp_path / "two" / "needle-600.jsonl").stat().st_mtime_ns
    write_needles(corpus, tmp_path / "two", "main", tokenizer, settings, 1)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert (tmp_path / "two" / "needle-600.jsonl").stat().st_mtime_ns == before
    pool = json.loads((tmp_path / "one" / "haystack.parquet.json").read_text())
    assert 100_000 < pool["text_bytes"] <= 150_000


def test_too_little_code_is_refused_with_what_is_needed(
    corpus: Path, real_tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = real_tokenizers["byte_bpe"]
    with pytest.raises(DataError, match=r"has [\d,]+ tokens in [\d,]+ files .* a context of 9,999,999 needs"):
        write_needles(corpus, tmp_path / "out", "main", tokenizer, NeedleSettings(lengths=(9_999_999,)), 1)
    with pytest.raises(DataError, match=r"has no file of 256 to 65536 bytes, .* in Go"):
        write_needles(corpus, tmp_path / "go", "main", tokenizer, NeedleSettings(languages=("Go",)), 1)
    with pytest.raises(DataError, match="no selection 'other'"):
        write_needles(corpus, tmp_path / "other", "other", tokenizer, NeedleSettings(), 1)


@pytest.mark.parametrize("place", [".", "needle", "documents/a/b"])
def test_no_corpus_is_written_into(
    corpus: Path, real_tokenizers: dict[str, Path], snapshot, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = snapshot(corpus)
    monkeypatch.chdir(corpus)
    with pytest.raises(DataError) as error:
        write_needles(corpus, Path(place), "main", real_tokenizers["byte_bpe"], NeedleSettings(**SMALL), 1)
    assert str(error.value) == f"{place}: {corpus} is a corpus; give a folder outside of it, such as {corpus}-needle"
    assert snapshot(corpus) == before


def test_an_answer_that_does_not_fit_is_refused(encoder: Encoder) -> None:
    haystack = a_haystack(encoder, answer_tokens=1)
    with pytest.raises(DataError, match=r"an answer has \d tokens, and answer_tokens is 1"):
        make_sample(haystack, 600, 50, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": [1]}, "there is no key 'length'; did you mean 'lengths'?"),
        ({"depths": [0, 101]}, "depths are percent"),
        ({"depths": [5, 5]}, "each of them once"),
        ({"lengths": 600}, "needle: lengths: Input should be a valid list (got 600)"),
        ({"lengths": [200]}, "needle: lengths must be at least 272"),
        ({"languages": ["Cobol"]}, "no needle is known for Cobol"),
    ],
)
def test_settings_that_are_wrong(values: dict, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        load_settings(NeedleSettings, "needle", None, values)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_wrong_is_said_to_be_where_it_stands(tmp_path: Path) -> None:
    config = tmp_path / "needle.yaml"
    config.write_text("samples: 0\n")
    for overrides, message in (
        ({"lengths": [600]}, f"{config}: samples"),
        ({"samples": -1}, "needle: samples"),
        ({"sample": 1}, "needle: there is no key 'sample'"),
    ):
        with pytest.raises(DataError) as refusal:
            load_settings(NeedleSettings, "needle", config, overrides)
        assert str(refusal.value).startswith(message)


def test_a_length_that_is_no_longer_asked_for_goes(
    corpus: Path, real_tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    for lengths in ((600, 700), (700, 800)):
        settings_ = NeedleSettings(lengths=lengths, depths=(50,), samples=1)
        about = write_needles(corpus, tmp_path / "out", "main", real_tokenizers["byte_bpe"], settings_, 1)
        assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == sorted(about["files"])


def test_a_larger_grid_has_the_prompts_of_a_smaller_one(
    corpus: Path, real_tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    small, large = (
        NeedleSettings(lengths=(600,), depths=(50,), samples=2),
        NeedleSettings(lengths=(500, 600), depths=(25, 50), samples=3),
    )
    rows = []
    for name, settings_ in (("small", small), ("large", large)):
        write_needles(corpus, tmp_path / name, "main", real_tokenizers["byte_bpe"], settings_, 1)
        rows.append((tmp_path / name / "needle-600.jsonl").read_text().splitlines())
    assert set(rows[0]) < set(rows[1])


@given(st.permutations(list(range(12))), st.lists(st.integers(1, 9), min_size=12, max_size=12), st.integers(1, 60))
def test_the_pool_is_of_the_smallest_hashes_whatever_the_order(order: list[int], sizes: list[int], most: int) -> None:
    kept = Smallest(most)
    for number in order:
        kept.add(Place(-number, 0, 0, sizes[number]))
    found = [-place.rank for place in kept.places()]
    fitting = [number for number in range(12) if sum(sizes[: number + 1]) <= most]
    assert found == (fitting or [0])


def test_a_header_that_cannot_be_filled_in_is_refused() -> None:
    with pytest.raises(DataError, match=r"needle: header: .*only \{path\}, \{repository\} and \{language\}"):
        load_settings(NeedleSettings, "needle", None, {"header": "{name}"})
