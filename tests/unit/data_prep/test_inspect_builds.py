"""`data inspect` of builds: what is shown is what is there, whatever it says, and nothing acts on the terminal."""

import io
import json
import re
from contextlib import ExitStack
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from rich.console import Console
from typer.testing import CliRunner

from data_prep.build import build
from data_prep.cli import app
from data_prep.errors import DataError
from data_prep.inspect.build_view import Choice, show_build
from data_prep.inspect.choose import choose
from data_prep.inspect.parts import stretches
from data_prep.inspect.reader import BuildReader, is_build
from data_prep.inspect.show import Shown, print_shown, write_page
from data_prep.select import SelectionConfig, select
from tokenizer.encode import Encoder
from tokenizer.train import TrainSettings, train

STRANGE = "x = '\x1b[31mred\x1b]0;title\x07 \u202eesrever\u200b' # <[fim-suffix]> 日本語 🙂 é\r\n\tend\n"


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, trained on this test's own text."""
    found = {}
    for kind in ("sentencepiece", "byte_bpe"):
        found[kind] = tmp_path_factory.mktemp("tokenizers") / kind
        texts = [Path(__file__).read_text(encoding="utf-8")] * 3
        train(texts, found[kind], TrainSettings(600, kind, seed=1))
    return found


@pytest.fixture(scope="session", params=["sentencepiece", "byte_bpe"])
def encoder(request: pytest.FixtureRequest, tokenizers: dict[str, Path]) -> Encoder:
    return Encoder.load(tokenizers[request.param])


@pytest.fixture
def built(take, files, tmp_path: Path, tokenizers: dict[str, Path]) -> Path:
    """A build in which about half of the documents are split."""
    texts = {f"r{n}/f{n}.py": f"def function_{n}(a, b):\n    return a + b + {n}\n{STRANGE}" for n in range(40)}
    take(files(tmp_path / "src", texts))
    select(tmp_path / "corpus", "main", SelectionConfig.model_validate({"rules": [], "held_out": {"fraction": 0.1}}))
    build(tmp_path / "corpus", "main", tokenizers["byte_bpe"], tmp_path / "tokens", "train", [0.5], [0], 1234, 1)
    return tmp_path / "tokens" / "train-fim0.5-epoch0"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(0, 60), st.booleans(), st.data())
def test_what_is_shown_is_the_text(encoder: Encoder, text: str, most: int, separate: bool, data) -> None:
    ids = np.array(encoder.encode(text), encoder.dtype)
    loss_start = data.draw(st.integers(0, len(ids)))
    found = stretches(ids, encoder, most, loss_start, separate)
    assert [number for stretch in found for number in stretch.ids] == ids.tolist()
    assert [stretch.first for stretch in found] == np.cumsum([0, *(len(s.ids) for s in found)])[:-1].tolist()
    assert all(stretch.has_loss == (stretch.first >= loss_start) for stretch in found)
    shown = "".join(stretch.text for stretch in found if stretch.kind != "gap")
    if not any(stretch.kind == "gap" for stretch in found) and (loss_start == 0 or "\ufffd" not in shown):
        assert shown == text
    if most and loss_start == 0 and len(ids) > max(most, 24) + 20:
        assert any(stretch.kind == "gap" for stretch in found)
        rest = iter(shown)  # what is left of the text, in its order
        assert "\ufffd" in shown or all(character in rest for character in shown)
        head = found[0].text
        assert text.startswith(head)


def test_characters_that_several_tokens_make_are_whole(encoder: Encoder) -> None:
    text = "日本語 🙂🙃 ∀x ∃y" * 8
    ids = np.array(encoder.encode(text), encoder.dtype)
    for most in range(2, len(ids)):
        for stretch in stretches(ids, encoder, most):
            assert "\ufffd" not in stretch.text
    alone = stretches(ids, encoder, separate=True)
    assert "".join(stretch.text for stretch in alone) == text
    assert all("\ufffd" not in stretch.text for stretch in alone)


def test_special_tokens_are_known_by_their_ids(encoder: Encoder) -> None:
    """A document may hold the string of a special token; it is text."""
    suffix, prefix, middle, eos = encoder.special.require("fim_suffix", "fim_prefix", "fim_middle", "eos")
    parts = [encoder.encode(text) for text in ("tail <[fim-middle]>", "head", "between")]
    ids = np.array([suffix, *parts[0], prefix, *parts[1], middle, *parts[2], eos], encoder.dtype)
    found = [(stretch.kind, stretch.text) for stretch in stretches(ids, encoder)]
    assert found == [
        ("special", "<[fim-suffix]>"),
        ("suffix", "tail <[fim-middle]>"),
        ("special", "<[fim-prefix]>"),
        ("prefix", "head"),
        ("special", "<[fim-middle]>"),
        ("middle", "between"),
        ("special", "<[end▁of▁sentence]>"),
    ]
    window = stretches(ids, encoder, window=slice(2, len(ids) - 1))
    assert window[0].first == 2 and window[0].kind == "suffix" and window[-1].kind == "middle"


def test_documents_are_those_that_megatron_core_reads(built: Path, tokenizers: dict[str, Path]) -> None:
    dataset, encoder = IndexedDataset(str(built)), Encoder.load(tokenizers["byte_bpe"])
    with ExitStack() as stack:
        reader = BuildReader.open(built, stack)
        assert reader.documents == len(dataset)
        for number in range(len(dataset)):
            assert reader.document(number).tolist() == dataset[number].tolist()
            place = reader.place(number)
            assert (place.source, place.repository) == ("src", place.path.replace("f", "r").removesuffix(".py"))
            text = "".join(s.text for s in stretches(reader.document(number), encoder) if s.kind != "special")
            assert f"function_{place.repository[1:]}(" in text or "function" not in text


def test_documents_of_several_sequences_made_elsewhere(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    encoder = Encoder.load(tokenizers["byte_bpe"])
    builder = IndexedDatasetBuilder(str(tmp_path / "foreign.bin"), dtype=np.int32)
    for document in (["one ", "two"], [], ["three"]):
        for text in document:
            builder.add_item(torch.tensor(encoder.encode(text)))
        builder.end_document()
    builder.finalize(str(tmp_path / "foreign.idx"))
    shown, _ = show_build(tmp_path / "foreign", tokenizers["byte_bpe"], Choice())
    assert ["".join(s.text for s in one.stretches) for one in shown] == ["one two", "", "three"]
    assert all(one.place is None for one in shown)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.output


def test_nothing_in_a_document_acts_on_the_terminal(built: Path, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    output = run(built, "--tokenizer", tokenizers["byte_bpe"], "--documents", 40, "--tokens", 0)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", output)
    assert "␛[31mred" in output and "⟨U+202E⟩" in output
    stream = io.StringIO()
    shown, facts = show_build(built, tokenizers["byte_bpe"], Choice(documents=40, tokens=0))
    print_shown(Console(file=stream, force_terminal=True, color_system="standard", width=100), shown)
    codes = set(re.findall(r"\x1b[^m]*m", stream.getvalue()))
    assert codes and all(re.fullmatch(r"\x1b\[[0-9;]*m", code) for code in codes)  # colours, of ours alone
    assert "\x1b]" not in stream.getvalue()
    write_page(tmp_path / "page.html", "Documents", facts, shown)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", html)
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_the_page_shows_the_parts_of_a_document(built: Path, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    output = run(
        built, "--tokenizer", tokenizers["byte_bpe"], "--infilling", "--documents", 3, "--tokens", 0, "--out", page
    )
    assert "3 documents" in output
    html = page.read_text(encoding="utf-8")
    for body in re.findall(r"<pre>(.*?)</pre>", html, re.S):
        spans = [
            (kind, unescape(text)) for kind, text in re.findall(r'<span class="(\w+)"[^>]*>(.*?)</span>', body, re.S)
        ]
        parts = {kind: text for kind, text in spans if kind != "special"}
        assert [text for kind, text in spans if kind == "special"] == [
            "<[fim-suffix]>",
            "<[fim-prefix]>",
            "<[fim-middle]>",
            "<[end▁of▁sentence]>",
        ]
        whole = parts.get("prefix", "") + parts.get("middle", "") + parts.get("suffix", "")
        assert whole.startswith("def function_") and whole.endswith("end\n")
    again = tmp_path / "again.html"
    run(built, "--tokenizer", tokenizers["byte_bpe"], "--infilling", "--documents", 3, "--tokens", 0, "--out", again)
    assert again.read_bytes() == page.read_bytes()


def test_the_seed_decides_which_documents(built: Path) -> None:
    with ExitStack() as stack:
        reader = BuildReader.open(built, stack)
        drawn = {seed: list(choose(reader, 5, seed)) for seed in range(100)}
        assert all(len(set(numbers)) == 5 for numbers in drawn.values())
        assert drawn[3] == list(choose(reader, 5, 3))
        assert len({tuple(numbers) for numbers in drawn.values()}) > 90
        assert {number for numbers in drawn.values() for number in numbers} == set(range(reader.documents))
        assert list(choose(reader, 1000, 1)) == list(range(reader.documents))
        assert list(choose(reader, 5, 1, lambda number: number == 7)) == [7]


def test_context_without_loss_is_told_apart(built: Path, tokenizers: dict[str, Path]) -> None:
    """The numbers beside a build say where loss begins in each document."""
    path = built.with_name(f"{built.name}.manifest.json")
    manifest = json.loads(path.read_text())
    starts = np.arange(manifest["documents"], dtype=np.int32) % 4
    np.save(built.with_name(f"{built.name}.loss_starts.npy"), starts)
    path.write_text(json.dumps(manifest | {"loss": {"on": "target", "tokens": 17}}))
    shown, facts = show_build(built, tokenizers["byte_bpe"], Choice(numbers=[2, 4, 7], tokens=0))
    for one, expected in zip(shown, (2, 0, 3), strict=True):
        assert sum(len(s.ids) for s in one.stretches if not s.has_loss) == expected
    assert ("tokens with loss", "17", "the others are only given") in facts
    stream = io.StringIO()
    print_shown(Console(file=stream, force_terminal=True, color_system="standard", width=200), shown)
    assert "only given: no loss on it" in stream.getvalue() and "\x1b[2" in stream.getvalue()


def test_ids_are_shown_where_they_are_asked_for(built: Path, tokenizers: dict[str, Path]) -> None:
    with ExitStack() as stack:
        ids = BuildReader.open(built, stack).document(3).tolist()
    output = run(built, "--tokenizer", tokenizers["byte_bpe"], "--document", 3, "--tokens", 0, "--ids")
    assert [int(n) for group in re.findall(r"⟨([\d ]+)⟩", output) for n in group.split()] == ids


def test_a_folder_of_builds_is_listed(built: Path, tmp_path: Path) -> None:
    output = run(built.parent)
    assert "train-fim0.5-epoch0" in output and "0.5" in output
    assert is_build(built.parent) and is_build(built) and is_build(Path(f"{built}.bin"))
    assert not is_build(tmp_path / "corpus") and not is_build(tmp_path / "nowhere")


def test_tokens_with_loss_are_listed_where_some_have_none(built: Path) -> None:
    assert "with loss" not in run(built.parent)
    manifest = json.loads(Path(f"{built}.manifest.json").read_text())
    Path(f"{built}-target.idx").touch()
    Path(f"{built}-target.manifest.json").write_text(json.dumps(manifest | {"loss": {"on": "target", "tokens": 1234}}))
    lines = [line for line in run(built.parent).splitlines() if "train-" in line]
    assert [line.count(f"{manifest['tokens']:,}") for line in lines] == [2, 1] and "1,234" in lines[1]


def test_without_colours_there_is_no_legend_of_them(built: Path, tokenizers: dict[str, Path]) -> None:
    assert "colours" not in run(built, "--tokenizer", tokenizers["byte_bpe"])


def test_refusals(built: Path, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = tokenizers["byte_bpe"]
    for arguments, message in (
        ((built,), "name the tokenizer"),
        ((built, "--json"), "is no corpus; --json cannot be used with it"),
        ((tmp_path / "corpus", "--ids", "--seed", 3), "is no build; --ids, --seed cannot be used with it"),
        ((built.parent, "--tokenizer", tokenizer), "holds builds: train-fim0.5-epoch0; name one; --tokenizer"),
        ((built, "--tokenizer", tokenizers["sentencepiece"]), "was made with another tokenizer"),
        ((built, "--tokenizer", tokenizer, "--document", 999), "has documents 0 to"),
        ((f"{tmp_path}/none.bin", "--tokenizer", tokenizer), "No such file"),
        ((tmp_path / "none",), "none: neither a corpus nor a build"),
        ((tmp_path,), f"neither a corpus nor a build; builds are in {built.parent}"),
    ):
        with pytest.raises(DataError) as refusal:
            run(*arguments)
        assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".idx", lambda data: b"", "no MMIDIDX header"),
        (".idx", lambda data: data[:9] + b"\x07" + data[10:], "index version 7"),
        (".idx", lambda data: data[:100], "truncated"),
        (".idx", lambda data: data[:34] + b"\xff" * 200 + data[234:], "damaged"),
        (".bin", lambda data: data[:20], "ends within document"),
        (".manifest.json", lambda data: b"[]", "not the manifest of a build"),
        (".provenance.parquet", lambda data: b"PAR1", "not a parquet file"),
    ],
)
def test_damaged_builds(built: Path, tokenizers: dict[str, Path], suffix: str, damage, message: str) -> None:
    path = Path(f"{built}{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as refusal:
        run(built, "--tokenizer", tokenizers["byte_bpe"], "--documents", 100)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_ids_of_another_tokenizer_are_refused(encoder: Encoder) -> None:
    with pytest.raises(DataError, match=f"has the id {encoder.vocab_size}"):
        stretches(np.array([1, encoder.vocab_size], np.int32), encoder)


def test_a_title_cannot_hide_anything() -> None:
    stream = io.StringIO()
    shown = [Shown("document 1", None, ["[red]1 token[/red]", "\x1b[2J"], [])]
    print_shown(Console(file=stream, width=100), shown)
    assert "[red]1 token[/red]" in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_names_of_builds_are_shown_as_they_are(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some [red] builds"
    folder.mkdir()
    for suffix in (".idx", ".bin", ".manifest.json"):
        (folder / f"a[x]:smile:{suffix}").write_bytes(Path(f"{built}{suffix}").read_bytes())
    shown = run(folder)
    assert "a[x]:smile:" in shown and "[red]" in shown
