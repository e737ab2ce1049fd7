import itertools
import json
import logging
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenizer import special
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.train import BYTE_BPE_SPLIT

MARKED = "x = '<[fim-prefix]>'  # <unk><[end▁of▁sentence]>\n<[begin▁of▁sentence]><[reserved-7]> <s></s><|endoftext|>\n"
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY = st.text(st.sampled_from(list("ab \t\r\n\0▁▅⁇<>[]-0123\u0301🎉\u200d\ue000\ufdd0\ufdd1\uffff\ufeff")))


def rows(encoder, texts):
    ids, offsets = encoder.encode_batch(texts)
    assert ids.dtype == encoder.dtype
    assert offsets.dtype == np.int64
    assert len(offsets) == len(texts) + 1
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@pytest.fixture(scope="session")
def both(directories):
    encoders = [Encoder.load(path) for path in directories.values()]
    return [(encoder, AutoTokenizer.from_pretrained(encoder.path, local_files_only=True)) for encoder in encoders]


@given(texts=st.lists(UNICODE | TRICKY, max_size=4))
@example(
    texts=[
        "▁",
        " ▁ ▁▁",
        "a▁b",
        "\0",
        "\u0301",
        "\r\n\r\n",
        "👩‍👩‍👧‍👦",
        "\ue000\uf8ff\U0010ffff",
        "\uffff<124>\uffff",
        "",
    ]
)
@settings(deadline=None)  # the first example loads the libraries
def test_any_unicode_text_round_trips_and_every_encoder_agrees(both, texts):
    for encoder, transformers_tokenizer in both:
        found = rows(encoder, texts)
        assert [encoder.decode(row) for row in found] == texts
        for text, row in zip(texts, found, strict=True):
            assert encoder.encode(text) == row
            assert transformers_tokenizer(text, split_special_tokens=True)["input_ids"] == row
            assert transformers_tokenizer.decode(row) == text


def test_code_round_trips_in_one_batch_as_text_by_text(encoder, other_texts):
    found = rows(encoder, other_texts)
    assert [encoder.decode(row) for row in found] == other_texts
    assert found[3] == encoder.encode(other_texts[3])


@given(text=st.lists(st.sampled_from([*special.special_strings(), " ", "a", "\n"])).map("".join))
@settings(deadline=None)
def test_marker_strings_in_raw_text_are_text(both, text):
    for encoder, _ in both:
        [found] = rows(encoder, [text])
        assert min(found, default=special.NUM_SPECIAL) >= special.NUM_SPECIAL
        assert encoder.decode(found) == text


def test_marker_strings_in_a_prompt_are_markers(encoder):
    prompt = "<[fim-suffix]> b<[fim-prefix]>def a<[fim-middle]>"
    ids = encoder.encode(prompt, markers=True)
    assert [i for i in ids if i < special.NUM_SPECIAL] == [125, 124, 126]
    assert ids == [125, *encoder.encode(" b"), 124, *encoder.encode("def a"), 126]
    assert encoder.decode(ids) == prompt


def test_transformers_loads_it_as_a_fast_tokenizer(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder.path, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 2, 1)
    assert len(tokenizer) == encoder.vocab_size
    prompt = MARKED + "<[fim-suffix]> b <[MASK▁TOKEN]> <[fim-prefix]>def a<[fim-middle]>"
    assert tokenizer(prompt)["input_ids"] == encoder.encode(prompt, markers=True)
    assert tokenizer.decode(tokenizer("it is n't , so . ok ?")["input_ids"]) == "it is n't , so . ok ?"


def test_saving_it_with_transformers_keeps_it(encoder, tmp_path):
    AutoTokenizer.from_pretrained(encoder.path, local_files_only=True).save_pretrained(tmp_path)
    saved = Encoder.load(tmp_path)
    assert (saved.digest, saved.special) == (encoder.digest, encoder.special)


def test_a_lone_surrogate_is_refused_by_name(encoder):
    for encode in (encoder.encode_batch, encoder.encode_reference):
        with pytest.raises(TokenizerError, match=r"text 1, character 2: lone surrogate U\+DC80"):
            encode(["fine", "ab\udc80"])
    with pytest.raises(TokenizerError, match="lone surrogate"):
        encoder.encode("\ud800")


def test_every_character_is_split_alike_whatever_unicode_version_the_encoders_know(tmp_path):
    """Merges of the characters' first and last bytes with their neighbours show how each character was taken."""
    alphabet = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in alphabet]
    letter = {byte: chr(byte) for byte in alphabet} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    neighbours = [letter[ord(character)] for character in '"x1 ']
    merges = [(letter[byte], other) for byte in range(0x80, 0xC0) for other in neighbours]
    merges += [(other, letter[byte]) for byte in range(0xC2, 0xF5) for other in neighbours]
    vocab = {string: i for i, string in enumerate([*(letter[b] for b in range(256)), *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    split = pre_tokenizers.Split(Regex(BYTE_BPE_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder.load(tmp_path)
    kept = (chr(i) for i in range(0x80, 0x34000) if not 0xD800 <= i < 0xE000)
    characters = [c for c in kept if unicodedata.category(c) != "Lo"]  # most of them ideographs
    characters += [chr(i) for i in (0x4E00, 0x9FFF, 0xAC00, 0x2A6D6, 0x2B73A, 0x187F8, 0x323B0)]
    texts = [f'x{c}x "{c}" {c}1{c} {c}' for c in characters]
    assert_same(encoder.encode_batch(texts), encoder.encode_reference(texts))
    assert encoder._fast is not None


def assert_same(found, expected):
    assert np.array_equal(found[1], expected[1])
    assert np.array_equal(found[0], expected[0])


def test_no_texts_give_no_ids(encoder):
    assert rows(encoder, []) == []
    assert rows(encoder, ["", ""]) == [[], []]


def test_pickling_keeps_the_tokenizer(encoder):
    encoder.encode_batch(["a"])
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    assert rows(pickle.loads(data), [MARKED]) == rows(encoder, [MARKED])


def test_an_encoder_that_differs_from_the_reference_is_not_used(encoder, caplog):
    class Wrong:
        def __init__(self, backend):
            self.backend = backend

        def encode(self, text):
            return self.backend.encode(text.replace("a", "b"))

    encoder._fast = Wrong(encoder._fast)
    expected = [encoder.encode(text) for text in ("banana", "x")]
    with caplog.at_level(logging.WARNING):
        assert rows(encoder, ["banana", "x"]) == expected
    assert "different ids" in caplog.text
    assert rows(encoder, ["a"]) == [encoder.encode("a")]


def foreign(path, model, pre_tokenizer, trainer_class, **added):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainer_class(vocab_size=400, special_tokens=["<|endoftext|>", "<unk>"], show_progress=False, **added)
    tokenizer.train_from_iterator([MARKED * 3, "def f(x):\n    return x\n" * 9], trainer)
    tokenizer.add_tokens(["<|fim_prefix|>", "    "])  # known to be special only through `roles`, and not special
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path))
    return tokenizer


@pytest.mark.parametrize("kind", ["byte_level", "whole_words", "unigram", "word_piece"])
def test_any_hugging_face_tokenizer_can_be_loaded(kind, tmp_path, caplog):
    alphabet = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    made = {
        "byte_level": (models.BPE(), pre_tokenizers.ByteLevel(False), trainers.BpeTrainer, alphabet),
        "whole_words": (models.BPE(ignore_merges=True), pre_tokenizers.Whitespace(), trainers.BpeTrainer, {}),
        "unigram": (models.Unigram(), pre_tokenizers.Whitespace(), trainers.UnigramTrainer, {"unk_token": "<unk>"}),
        "word_piece": (models.WordPiece(unk_token="<unk>"), pre_tokenizers.Whitespace(), trainers.WordPieceTrainer, {}),
    }
    model, pre_tokenizer, trainer, options = made[kind]
    tokenizer = foreign(tmp_path / "tokenizer.json", model, pre_tokenizer, trainer, **options)
    encoder = Encoder.load(tmp_path / "tokenizer.json", {"eos": "<|endoftext|>", "fim_prefix": "<|fim_prefix|>"})
    markers = {tokenizer.token_to_id(string) for string in ("<|endoftext|>", "<|fim_prefix|>")}
    assert {encoder.special.eos, encoder.special.fim_prefix} == markers
    text = "<|endoftext|>" + MARKED + "<|fim_prefix|> <|endoftext|> def f(x):\n    return x\n"
    [found] = rows(encoder, [text])
    assert not markers & set(found)
    assert len(found) > 5, "not truncated"
    assert tokenizer.token_to_id("    ") in found, "added tokens that are not special stay"
    assert found == encoder.encode(text)
    assert markers <= set(encoder.encode(text, markers=True))
    assert ("cannot read it" in caplog.text) == (kind != "byte_level")


def test_missing_roles_are_refused_by_name(tmp_path):
    foreign(tmp_path / "tokenizer.json", models.BPE(), pre_tokenizers.ByteLevel(False), trainers.BpeTrainer)
    encoder = Encoder.load(tmp_path, {"eos": "<|endoftext|>"})
    assert encoder.special.require("eos") == (0,)
    with pytest.raises(TokenizerError, match="no token for fim_suffix, fim_middle;"):
        encoder.special.require("eos", "fim_suffix", "fim_middle")
    with pytest.raises(TokenizerError, match="no such token: eos \\('</s>'\\)"):
        Encoder.load(tmp_path, {"eos": "</s>"})
    with pytest.raises(TokenizerError, match="no such role: end; the roles are bos, "):
        Encoder.load(tmp_path, {"end": "<|endoftext|>"})


def test_roles_are_read_from_the_configuration_beside(tmp_path):
    foreign(tmp_path / "tokenizer.json", models.BPE(), pre_tokenizers.ByteLevel(False), trainers.BpeTrainer)
    config = {"eos_token": {"content": "<|endoftext|>"}, "unk_token": None, "pad_token": "<nowhere>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = Encoder.load(tmp_path).special
    assert (found.eos, found.unk, found.pad) == (0, 1, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[1]", "has no model"),
        ('{"model": {}}', "has no vocabulary"),
        ('{"model": {"vocab": 5}}', "has no vocabulary"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Encoder.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("seed_tokenizer.json", "{}", "does not describe a tokenizer"),
        ("seed_tokenizer.json", '{"special": {"eos": 2}}', "does not describe a tokenizer"),
        ("seed_tokenizer.json", "[1]", "an object is expected"),
        ("tokenizer_config.json", "[1]", "an object is expected"),
    ],
)
def test_a_damaged_file_beside_a_tokenizer_is_named(directories, name, content, message, tmp_path):
    shutil.copyfile(directories["byte_bpe"] / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=rf"{name}: .*{message}"):
        Encoder.load(tmp_path)
