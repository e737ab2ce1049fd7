"""Training: texts in, a tokenizer directory out.

Two kinds. `sentencepiece` (default): BPE with byte fallback, trained by sentencepiece on the counts of words, so that
no piece joins two words and a corpus costs as much as its distinct words. `byte_bpe`: byte-level BPE, trained by
Hugging Face tokenizers with the pre-tokenizer of Llama 3 at one digit per token.
"""

import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sentencepiece
from rich.progress import Progress
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer import special
from tokenizer.directory import write_directory
from tokenizer.errors import TokenizerError
from tokenizer.export import (
    LITERAL_CHARACTERS,
    SPACE_SYMBOL,
    special_added_tokens,
    to_hugging_face,
    with_escaped_spaces,
    with_literal_characters,
)
from tokenizer.sample import count_words, sample_texts

NUM_BYTES = 256
MIN_VOCAB_SIZE = 512

# The trainer counts symbols of a word in 16 bits, and a piece is shorter than this anyway.
MAX_WORD_CHARACTERS = 1024
# Characters sentencepiece gives a meaning of its own in training: they stay out of the alphabet, as bytes.
RESERVED_CHARACTERS = frozenset("\0\u2585" + SPACE_SYMBOL) | frozenset(LITERAL_CHARACTERS.values())

# The split of Llama 3 (Meta, tokenizer.json, 2024) with one digit per token, word for word as Qwen2 publishes it: fast
# encoders know a split by its exact expression.
BYTE_BPE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TrainSettings:
    """What a tokenizer is trained with."""

    vocab_size: int
    """Number of ids, special tokens and bytes included."""
    kind: Literal["sentencepiece", "byte_bpe"] = "sentencepiece"
    max_chars: int | None = 400_000_000
    """Characters used of all texts together; None for all. A limit is also what is held in memory at most."""
    max_chars_per_text: int | None = 100_000
    """Characters used of one text; None for all."""
    seed: int = 1234
    """Keys the choice of texts and of the part used of a long text."""
    character_coverage: float = 0.9995
    """sentencepiece: share of the characters whose kinds get a piece of their own; the others are written as bytes."""
    max_piece_length: int = 64
    """sentencepiece: longest piece, in characters."""
    special: tuple[str, ...] = ()
    """Groups of special tokens besides those of every tokenizer: `commits`."""

    def __post_init__(self) -> None:
        if self.kind not in ("sentencepiece", "byte_bpe"):
            raise TokenizerError(f"kind is {self.kind!r}; it must be sentencepiece or byte_bpe")
        if self.vocab_size < MIN_VOCAB_SIZE:
            raise TokenizerError(
                f"vocab_size is {self.vocab_size}; it must be at least {MIN_VOCAB_SIZE} "
                f"({special.NUM_SPECIAL} special tokens, {NUM_BYTES} bytes, and room to learn)"
            )
        for name in ("max_chars", "max_chars_per_text", "max_piece_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TokenizerError(f"{name} is {value}; it must be above 0")
        if not 0 < self.character_coverage <= 1:
            raise TokenizerError(
                f"character_coverage is {self.character_coverage:g}; it must be above 0 and at most 1, such as 0.9995"
            )
        special.roles_with(self.special)


def train(texts: Iterable[str], out: Path, settings: TrainSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Trains a tokenizer on whole texts, line ends included, and writes its directory `out`.

    The same texts, in any order, and the same settings give the same bytes. Returns what `seed_tokenizer.json` holds.
    Raises `TokenizerError` when the texts cannot fill the vocabulary, naming the size they can.
    """
    task = progress.add_task(f"training the {settings.kind} tokenizer", total=None) if progress else None
    seen = {"texts": 0, "characters": 0}
    sample = _counted(sample_texts(texts, settings.max_chars, settings.max_chars_per_text, settings.seed), seen)
    learn = _train_sentencepiece if settings.kind == "sentencepiece" else _train_byte_bpe
    tokenizer, files = learn(sample, settings)
    if tokenizer.get_vocab_size() != settings.vocab_size:
        raise TokenizerError(
            f"{seen['texts']} texts ({seen['characters']} characters) allow a vocabulary of at most "
            f"{tokenizer.get_vocab_size()}, not {settings.vocab_size}: ask for that or less, or give more text"
        )
    roles = special.roles_with(settings.special)
    description = write_directory(out, tokenizer, settings.kind, roles, files, {**asdict(settings), **seen})
    if progress:
        progress.update(task, total=1, completed=1)
    return description


def _counted(texts: Iterable[str], seen: dict[str, int]) -> Iterator[str]:
    for text in texts:
        seen["texts"] += 1
        seen["characters"] += len(text)
        yield text
    if not seen["texts"]:
        raise TokenizerError("no text to train a tokenizer on: there is none, or every text is empty")


def _train_sentencepiece(texts: Iterable[str], settings: TrainSettings) -> tuple[Tokenizer, dict[str, bytes]]:
    words = count_words(texts)
    alphabet = choose_alphabet(words, settings.character_coverage, settings.vocab_size)
    model = with_literal_characters(_sentencepiece_model(_spell(words, alphabet), settings))
    return to_hugging_face(model), {"tokenizer.model": with_escaped_spaces(model)}


def choose_alphabet(words: Counter[str], coverage: float, vocab_size: int) -> frozenset[str]:
    """The most frequent characters, until they make up `coverage` of all.

    They take at most half of what the vocabulary has room for, so that a small vocabulary still learns words.
    """
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    room = (vocab_size - special.NUM_SPECIAL - NUM_BYTES) // 2
    needed = coverage * characters.total()
    chosen, covered = set(), 0
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed or len(chosen) == room:
            break
        covered += count
        if character not in RESERVED_CHARACTERS:
            chosen.add(character)
    return frozenset(chosen)


def _spell(words: Counter[str], alphabet: frozenset[str]) -> Iterator[tuple[str, int]]:
    """The words as the trainer is to see them: in a fixed order, without the characters that are written as bytes."""
    for word, count in sorted(words.items()):
        for known, characters in itertools.groupby(word, alphabet.__contains__):
            if known:
                run = "".join(characters)
                for start in range(0, len(run), MAX_WORD_CHARACTERS):
                    yield run[start : start + MAX_WORD_CHARACTERS], count


def _sentencepiece_model(words: Iterable[tuple[str, int]], settings: TrainSettings) -> bytes:
    """A sentencepiece BPE model of counted words, its pieces spelt with the stand-ins of `LITERAL_CHARACTERS`."""
    stand_ins = str.maketrans(LITERAL_CHARACTERS)
    counted = [f"{word.translate(stand_ins)}\t{count}" for word, count in words]
    if not any(len(line.split("\t")[0]) > 1 for line in counted):
        raise TokenizerError("the texts hold no word of two characters to learn from: give more text")
    strings = special.special_strings(settings.special)
    named = {special.IDS[role] for role in ("bos", "pad", "eos", "unk")}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(counted),
        input_format="tsv",  # word, tab, count
        model_writer=model,
        model_type="bpe",
        vocab_size=settings.vocab_size,
        hard_vocab_limit=False,  # the caller compares and says what would be possible
        character_coverage=1.0,  # the alphabet is already chosen
        byte_fallback=True,
        max_sentencepiece_length=settings.max_piece_length,
        split_digits=True,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 20,
        **{f"{role}_id": special.IDS[role] for role in ("bos", "pad", "eos", "unk")},
        **{f"{role}_piece": special.STRINGS[role] for role in ("bos", "pad", "eos", "unk")},
        control_symbols=[string for index, string in enumerate(strings) if index not in named],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _train_byte_bpe(texts: Iterable[str], settings: TrainSettings) -> tuple[Tokenizer, dict[str, bytes]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_BPE_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=special_added_tokens(special.special_strings(settings.special)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, {}
