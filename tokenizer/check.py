"""Whether the encoders of a tokenizer agree, text by text: the fast one, `transformers` and sentencepiece."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.export import with_literal_characters

BATCH_CHARACTERS = 4_000_000
SHOWN_TEXTS = 10

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]


@dataclass
class Report:
    """What `compare` found. `differing` and `not_restored` count texts; `examples` are indices of the first of them."""

    encoders: list[str]
    texts: int = 0
    size_bytes: int = 0
    tokens: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    not_restored: int = 0
    examples: list[int] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        """Every encoder gave every text the same ids, and decoding gave every text back."""
        return not self.not_restored and not any(self.differing.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "agree": self.agree, "bytes_per_token": self.size_bytes / max(1, self.tokens)}


def compare(path: str | Path, texts: Iterable[str], progress: Progress | None = None) -> Report:
    """Encodes every text with every encoder of a tokenizer directory and decodes it again.

    The reference is `Encoder`, the encoder that builds are written with; the others are counted where they differ from
    it. Holds a few megabytes of text at a time. Raises `TokenizerError` when there is no tokenizer or no text.
    """
    encoder = Encoder.load(path)
    others = _other_encoders(Path(path))
    report = Report(["fast", *others], differing=dict.fromkeys(others, 0))
    task = progress.add_task("comparing encoders", total=None) if progress else None
    for batch in _batches(texts):
        _compare_batch(encoder, others, batch, report)
        if progress:
            progress.update(task, completed=report.size_bytes)
    if not report.texts:
        raise TokenizerError("no text to compare encoders on: give at least one")
    return report


def _compare_batch(encoder: Encoder, others: dict[str, Encode], batch: list[str], report: Report) -> None:
    ids, offsets = encoder.encode_batch(batch)
    rows = np.split(ids, offsets[1:-1])
    wrong = set()
    for name, encode in others.items():
        differing = [i for i, row in enumerate(encode(batch)) if not np.array_equal(row, rows[i])]
        report.differing[name] += len(differing)
        wrong.update(differing)
    broken = [i for i, row in enumerate(rows) if encoder.decode(row) != batch[i]]
    report.not_restored += len(broken)
    room = SHOWN_TEXTS - len(report.examples)
    report.examples += [report.texts + i for i in sorted(wrong.union(broken))[:room]]
    report.texts += len(batch)
    report.tokens += len(ids)
    report.size_bytes += sum(len(text.encode()) for text in batch)


def _other_encoders(path: Path) -> dict[str, Encode]:
    encoders: dict[str, Encode] = {}
    if (path / "tokenizer.model").is_file():
        import sentencepiece

        encoders["sentencepiece"] = sentencepiece.SentencePieceProcessor(
            model_proto=with_literal_characters((path / "tokenizer.model").read_bytes())
        ).encode
    encoders["transformers"] = _transformers_encoder(path)
    return encoders


def _transformers_encoder(path: Path) -> Encode:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # seconds, which only a comparison is worth

    tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TokenizerError(f"{path}: transformers loads it as {type(tokenizer).__name__}, not as a fast tokenizer")

    def encode(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        found = tokenizer(list(texts), add_special_tokens=True, split_special_tokens=True, return_attention_mask=False)
        return found["input_ids"]

    return encode


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
