"""Special tokens that a tokenizer has only when it was trained with their group."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tokenizer import special
from tokenizer.check import compare
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.train import TrainSettings, train

KINDS = ("sentencepiece", "byte_bpe")
MARKERS = [special.STRINGS[role] for role in special.COMMIT_ROLES]


@pytest.fixture(scope="module")
def with_commits(training_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("with-commits")
    for kind in KINDS:
        train(training_texts[:12], folder / kind, TrainSettings(700, kind, special=("commits",)))
        train(training_texts[:12], folder / f"{kind}-without", TrainSettings(700, kind))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_takes_reserved_ids_and_moves_no_other(with_commits, kind):
    encoder, without = Encoder.load(with_commits / kind), Encoder.load(with_commits / f"{kind}-without")
    assert encoder.special.require(*special.COMMIT_ROLES) == (7, 8, 9, 10, 11, 12)
    assert encoder.special.require(*special.ALWAYS) == without.special.require(*special.ALWAYS)
    text = "def f(x):\n    return [x, 'ä']\n"
    assert encoder.encode(text) == without.encode(text)
    assert encoder.digest != without.digest and encoder.vocab_size == without.vocab_size
    assert json.loads((with_commits / kind / "seed_tokenizer.json").read_text())["training"]["special"] == ["commits"]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_ids(with_commits, kind):
    theirs = AutoTokenizer.from_pretrained(str(with_commits / kind))
    assert theirs.convert_tokens_to_ids(MARKERS) == [7, 8, 9, 10, 11, 12]
    assert set(MARKERS) <= set(theirs.all_special_tokens) | set(theirs.get_added_vocab())
    prompt = f"{MARKERS[0]}Fix it\n{MARKERS[4]}M\ta.py\n"
    assert theirs(prompt, add_special_tokens=False)["input_ids"] == Encoder.load(with_commits / kind).encode(
        prompt, markers=True
    )


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.sampled_from([*MARKERS, "<[", "]>", "commit-file", " ", "a", "\n"])).map("".join))
def test_a_marker_in_a_text_is_text(with_commits, kind, text):
    encoder = Encoder.load(with_commits / kind)
    ids, _ = encoder.encode_batch([text])
    assert min(ids, default=special.NUM_SPECIAL) >= special.NUM_SPECIAL
    assert encoder.decode(ids) == text
    assert ids.tolist() == encoder.encode_reference([text])[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_encoders_agree_on_texts_with_markers(with_commits, kind):
    assert compare(with_commits / kind, ["".join(MARKERS), "x = 1\n" + "\n".join(MARKERS)]).agree


def test_a_tokenizer_without_the_group_says_what_to_do(with_commits):
    encoder = Encoder.load(with_commits / "byte_bpe-without")
    with pytest.raises(TokenizerError, match="no token for commit_file; train one with --special commits, or name its"):
        encoder.special.require("eos", "commit_file")
    own = {role: f"<[reserved-{special.IDS[role]}]>" for role in special.COMMIT_ROLES}  # what the message proposes
    assert Encoder.load(encoder.path, own).special.require(*special.COMMIT_ROLES) == (7, 8, 9, 10, 11, 12)


def test_groups_that_do_not_exist_are_refused():
    with pytest.raises(TokenizerError, match="no such group of special tokens: chat; there is commits"):
        TrainSettings(600, special=("chat",))
