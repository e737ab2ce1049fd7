import io
import itertools
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tokenizer.check import compare
from tokenizer.cli import app, read_texts
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.export import export, ranked_merges, to_hugging_face, with_escaped_spaces, with_literal_characters


def model_file(path, **settings):
    """A sentencepiece model as others train it: no special ids of ours, U+2581 for spaces."""
    model = io.BytesIO()
    texts = ["".join(letters) for letters in itertools.product("ab", repeat=9)] + ["a = b  # c  b"] * 300
    defaults = {
        "model_type": "bpe",
        "vocab_size": 330,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "split_by_whitespace": False,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **{**defaults, **settings}
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "other.model")


@given(text=st.text(st.sampled_from("ab =#▁\n")))
def test_a_model_of_someone_else_keeps_its_ids(other_model, text):
    original = sentencepiece.SentencePieceProcessor(model_file=str(other_model))
    model = with_literal_characters(other_model.read_bytes())
    rewritten = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = rewritten.encode(text)
    assert to_hugging_face(model).encode(text, add_special_tokens=False).ids == found
    assert rewritten.decode(found) == text
    if "▁" not in text:
        assert original.encode(text) == found
        escaped = sentencepiece.SentencePieceProcessor(model_proto=with_escaped_spaces(model))
        assert escaped.encode(text) == found


@given(
    text=st.text(st.sampled_from("abc"), max_size=30),
    pieces=st.lists(st.text(st.sampled_from("abc"), min_size=2, max_size=7), unique=True, max_size=20),
)
def test_a_list_of_merges_joins_what_scores_of_pieces_would(text, pieces):
    scores = {piece: -float(i) for i, piece in enumerate([*pieces, "a", "b", "c"])}
    merges = {pair: rank for rank, pair in enumerate(ranked_merges(scores))}
    by_list, by_score = list(text), list(text)
    while pairs := [(merges[p], i) for i, p in enumerate(itertools.pairwise(by_list)) if p in merges]:
        at = min(pairs)[1]
        by_list[at : at + 2] = [by_list[at] + by_list[at + 1]]
    while pairs := [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(by_score)) if a + b in scores]:
        at = min(pairs)[1]
        by_score[at : at + 2] = [by_score[at] + by_score[at + 1]]
    assert by_list == by_score


def test_exporting_names_the_models_own_tokens_and_those_given(other_model, tmp_path):
    description = export(other_model, tmp_path / "t", {"sep": "</s>"})
    assert description["special"]["eos"] == {"token": "</s>", "id": 2}
    assert description["special"]["sep"]["id"] == 2
    assert "pad" not in description["special"]
    assert compare(tmp_path / "t", ["a = b\n" * 20, "▁<unk></s>"]).agree
    with pytest.raises(TokenizerError, match="no such token: sep"):
        export(other_model, tmp_path / "u", {"sep": "<sep>"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"add_dummy_prefix": True}, "add_dummy_prefix must be false"),
        ({"model_type": "unigram", "vocab_size": 300}, "model_type must be bpe"),
        ({"byte_fallback": False, "vocab_size": 60}, "byte_fallback must be true"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalization_rule_name must be identity"),
        ({"user_defined_symbols": ["<fim>"]}, "user-defined"),
    ],
)
def test_a_model_without_an_exact_counterpart_is_refused(settings, message, tmp_path):
    with pytest.raises(TokenizerError, match=message):
        export(model_file(tmp_path / "m", **settings), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(b"\xff\xff no model")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        export(tmp_path / "m", tmp_path / "t")
    with pytest.raises(TokenizerError, match="No such file"):
        export(tmp_path / "n", tmp_path / "t")


def test_comparing_finds_encoders_that_disagree(directories, other_texts, tmp_path):
    report = compare(directories["sentencepiece"], [*other_texts[:5], "▁ <[fim-prefix]>"])
    assert report.agree
    assert (report.encoders, report.texts) == (["fast", "sentencepiece", "transformers"], 6)
    shutil.copytree(directories["sentencepiece"], tmp_path / "t")
    spec = json.loads((tmp_path / "t" / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:-600]
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(spec))
    report = compare(tmp_path / "t", ["\n", *other_texts[:5]])
    assert not report.agree
    assert (report.differing, report.not_restored) == ({"sentencepiece": 5, "transformers": 0}, 0)
    assert report.examples == [1, 2, 3, 4, 5]


def test_comparing_nothing_is_refused(directories):
    with pytest.raises(TokenizerError, match="no text"):
        compare(directories["byte_bpe"], [])


def test_the_command_line_trains_exports_and_checks(tmp_path, training_texts):
    files = tmp_path / "code"
    (files / ".git").mkdir(parents=True)
    for i, text in enumerate(training_texts[:6]):
        (files / f"{i}.py").write_bytes(text.encode())
    (files / "binary").write_bytes(b"\xff\xfe")
    (files / ".git" / "x").write_text("hidden " * 999)

    def run(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    made = run("train", files, "--out", tmp_path / "t", "--vocab-size", 600)
    assert (made["vocab_size"], made["training"]["texts"]) == (600, 6)
    assert run("check", tmp_path / "t", files)["agree"]
    exported = run("export", tmp_path / "t" / "tokenizer.model", "--out", tmp_path / "u", "--role", "eos=<unk>")
    assert (exported["digest"], exported["special"]["eos"]["id"]) == (made["digest"], 3)
    assert Encoder.load(tmp_path / "u").special.eos == 3
    with pytest.raises(TokenizerError, match="write it as ROLE=TOKEN"):
        run("export", tmp_path / "t" / "tokenizer.model", "--out", tmp_path / "v", "--role", "eos")
    with pytest.raises(TokenizerError, match="no such file"):
        run("check", tmp_path / "t", tmp_path / "nowhere")


def test_tables_that_hold_no_texts_are_refused(tmp_path):
    tables = {"numbers": pa.array([1, 2]), "bytes": pa.array([b"x", b"\xff"])}
    for name, column in tables.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "numbers.parquet").read_bytes()[:-9])
    for name, said in (("numbers", "holds int64, not text"), ("bytes", "holds binary"), ("cut", "no parquet file")):
        with pytest.raises(TokenizerError, match=rf"{name}.parquet.*{said}"):
            list(read_texts([tmp_path / f"{name}.parquet"]))
    pq.write_table(pa.table({"text": pa.array(["a", None, "b"]).dictionary_encode()}), tmp_path / "words.parquet")
    assert list(read_texts([tmp_path / "words.parquet"])) == ["a", "b"]
