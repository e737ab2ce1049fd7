import hashlib
import json
import random
import subprocess
import sys

import pytest
import regex
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tokenizer import special
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.export import with_literal_characters
from tokenizer.sample import count_words, sample_texts
from tokenizer.train import TrainSettings, choose_alphabet, train

KINDS = ("sentencepiece", "byte_bpe")


def digests(directory):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def test_special_tokens_have_the_ids_of_the_public_tokenizer(encoder):
    roles = ("bos", "pad", "eos", "unk", "mask", "sep", "fim_prefix", "fim_suffix", "fim_middle")
    assert encoder.special.require(*roles) == (0, 1, 2, 3, 5, 6, 124, 125, 126)
    assert encoder.decode([2, 125, 0]) == "<[end▁of▁sentence]><[fim-suffix]><[begin▁of▁sentence]>"


def test_the_vocabulary_has_the_size_asked_for(encoder):
    assert encoder.vocab_size == 4096
    assert encoder.dtype == "uint16"


@pytest.mark.parametrize("kind", KINDS)
def test_same_texts_give_the_same_bytes_in_any_order_and_process(kind, training_texts, tmp_path):
    texts = training_texts[:12]
    train(texts, tmp_path / "a", TrainSettings(700, kind))
    train(texts[::-1], tmp_path / "b", TrainSettings(700, kind))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, pathlib, sys; from tokenizer.train import TrainSettings, train; f = pathlib.Path(sys.argv[1]);"
        "train(json.loads((f / 'texts.json').read_text()), f / 'c', TrainSettings(700, sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), kind], check=True, timeout=120)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(tmp_path / "c")


def test_no_piece_joins_two_words(directories):
    model = (directories["sentencepiece"] / "tokenizer.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=with_literal_characters(model))
    learned = range(special.NUM_SPECIAL + 256, processor.get_piece_size())
    pieces = [processor.id_to_piece(index) for index in learned]
    joins = regex.compile(r"[\p{L}\p{N}][^\p{L}\p{N}]+[\p{L}\p{N}]|\p{L}\p{N}|\p{N}{2}|\p{N}\p{L}|\p{L}\s|\S +\S")
    assert [piece for piece in pieces if joins.search(piece)] == []
    assert [piece for piece in pieces if regex.search("[^ ] ", piece)] == [], "the fast encoder counts on it"
    assert any(piece.endswith("  ") for piece in pieces), "indentation is learned"
    assert "\t\t" in pieces, "tabs are learned like any character"


def test_as_few_tokens_as_byte_level_bpe_of_the_same_size(directories, other_texts):
    counts = {kind: len(Encoder.load(path).encode_batch(other_texts)[0]) for kind, path in directories.items()}
    assert counts["sentencepiece"] <= 1.01 * counts["byte_bpe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_vocabulary_works_even_on_many_kinds_of_characters(kind, tmp_path):
    texts = ["".join(chr(0x4E00 + i) for i in range(3000)), "def f(x):\n\treturn x\n" * 50]
    train(texts, tmp_path / "t", TrainSettings(512, kind))
    encoder = Encoder.load(tmp_path / "t")
    assert encoder.vocab_size == 512
    assert all(encoder.decode(encoder.encode(text)) == text for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_cannot_be_filled_is_refused_with_the_size_that_can(kind, tmp_path):
    with pytest.raises(TokenizerError, match=r"at most \d+, not 5000") as refused:
        train(["def f(x):\n    return x\n", "class A:\n    pass\n" * 3], tmp_path / "t", TrainSettings(5000, kind))
    assert not (tmp_path / "t").exists()
    possible = int(regex.search(r"at most (\d+)", str(refused.value))[1])
    assert special.NUM_SPECIAL + 256 < possible < 5000


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text"),
        (["", ""], "no text"),
        (["a", "\ud800"], "text 1, character 0.*U\\+D800"),
        (["a"], "no word"),
    ],
)
def test_unusable_texts_are_refused(texts, message, tmp_path):
    with pytest.raises(TokenizerError, match=message):
        train(texts, tmp_path / "t", TrainSettings(600))


def test_settings_are_checked():
    with pytest.raises(TokenizerError, match="vocab_size is 300; it must be at least 512"):
        TrainSettings(300)
    with pytest.raises(TokenizerError, match="sentencepiece or byte_bpe"):
        TrainSettings(600, "unigram")
    with pytest.raises(TokenizerError, match="max_chars is -1; it must be above 0"):
        TrainSettings(600, max_chars=-1)
    with pytest.raises(TokenizerError, match="max_chars_per_text is -5; it must be above 0"):
        TrainSettings(600, max_chars_per_text=-5)
    with pytest.raises(TokenizerError, match=r"character_coverage is 99\.95; it must be above 0 and at most 1"):
        TrainSettings(600, character_coverage=99.95)


def test_an_older_tokenizer_is_replaced_and_anything_else_is_left_alone(training_texts, tmp_path):
    train(training_texts[:3], tmp_path / "t", TrainSettings(600))
    (tmp_path / "t" / "stale").write_text("x")
    train(training_texts[:3], tmp_path / "t", TrainSettings(610))
    assert Encoder.load(tmp_path / "t").vocab_size == 610
    assert not (tmp_path / "t" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        train(training_texts[:3], tmp_path / "mine", TrainSettings(600))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@given(st.lists(st.text(min_size=1), max_size=30), st.integers(1, 60), st.integers(1, 20), st.randoms())
def test_the_sample_depends_on_the_texts_not_on_their_order(texts, max_chars, per_text, shuffler):
    shuffled = list(texts)
    shuffler.shuffle(shuffled)
    sample = list(sample_texts(texts, max_chars, per_text, seed=1))
    assert sample == list(sample_texts(shuffled, max_chars, per_text, seed=1))
    assert all(len(text) <= per_text for text in sample)
    total = sum(len(text) for text in sample)
    everything = sum(min(len(text), per_text) for text in texts)
    assert min(max_chars, everything) <= total < max_chars + per_text


def test_the_seed_changes_the_sample():
    texts = [str(random.Random(i).random()) for i in range(50)]
    assert list(sample_texts(texts, 200, None, 1)) != list(sample_texts(texts, 200, None, 2))
    assert list(sample_texts(texts, None, 3, 1)) != list(sample_texts(texts, None, 3, 2))


@given(st.text())
def test_words_joined_are_the_text(text):
    assert sum(len(word) * count for word, count in count_words([text]).items()) == len(text)


def test_the_alphabet_is_what_covers_the_text_and_leaves_room():
    words = count_words(["aaaa bbb cc d" * 10 + "é"])
    assert choose_alphabet(words, 0.9, 4096) == {"a", "b", " ", "c"}
    assert choose_alphabet(words, 1.0, 4096) == set("abcd é")
    assert len(choose_alphabet(words, 1.0, special.NUM_SPECIAL + 256 + 6)) == 3
