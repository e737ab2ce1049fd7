"""Answers that were paid for: append-only JSON lines in `oracle/_answers`, shared by all oracles of a corpus.

Every run writes a file of its own, so any number may run at once, on any file system. An answer is written when it
comes, so killing the run loses none; once a second it is forced to disk. A line that was torn by a power cut is counted
and left out. Keys follow from all that was asked: model, its settings, the messages with prompt and document.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.errors import DataError
from data_prep.oracle.prompt import Request
from data_prep.oracle.settings import RequestSettings
from data_prep.shards import fingerprint

FOLDER = "_answers"  # no oracle can be called so
SYNC_EVERY_S = 1.0
KEY_DIGITS = 40


@dataclass(frozen=True)
class Answer:
    """What an oracle said of one document: a score, a label or a problem, and what was paid.

    `text` is the answer itself, kept where there is a problem or explanations are to be kept. Tokens are None where the
    endpoint does not count them.
    """

    score: float | None
    problem: str | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    text: str | None = None
    label: str | None = None

    @property
    def counts(self) -> bool:
        """It says what was asked for."""
        return self.score is not None or self.label is not None


def answer_key(request: Request, settings: RequestSettings) -> str:
    """Names what was asked: equal for equal messages, labels to choose from, model and settings of the model.

    The limit of tokens is no part of it: an answer that ended below one limit is the answer below any other.
    """
    body = settings.body(request.messages)
    del body[settings.max_tokens_field]
    labels = [list(request.answers)] if request.answers else []
    return fingerprint(body, settings.revision, *labels)[:KEY_DIGITS]


class AnswerStore:
    """The answers of a folder, and a file for those to come. Use as a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged_lines = 0
        self._descriptor: int | None = None
        self._synced_at = 0.0

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def load(self, keys: set[str]) -> tuple[dict[str, Answer], list[tuple[str, Answer]]]:
        """The stored answers to these keys, one for each; and every one that was paid for, with its key.

        Of several to one key, one with a score or label counts before one without, and a later one before an earlier
        one. Texts of answers with a score or label are left out.
        """
        found: dict[str, Answer] = {}
        paid = []
        self.damaged_lines = 0
        for key, answer in self._records():
            if key not in keys:
                continue
            if answer.counts:
                answer = replace(answer, text=None)
            paid.append((key, answer))
            if key not in found or answer.counts or not found[key].counts:
                found[key] = answer
        return found, paid

    def _records(self) -> Iterator[tuple[str, Answer]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as stream:
                for line in stream:
                    try:
                        record = json.loads(line)
                        key = record.pop("key")
                        yield str(key), Answer(**record)
                    except (ValueError, TypeError, KeyError, AttributeError):
                        self.damaged_lines += 1

    def put(self, key: str, answer: Answer) -> None:
        """Stores an answer: when this returns, no kill can lose it. Raises `DataError` where it cannot be written."""
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=True).encode() + b"\n"
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            if os.write(self._descriptor, line) != len(line):
                raise OSError(28, "the answer was written in part")
            if time.monotonic() - self._synced_at > SYNC_EVERY_S:
                os.fdatasync(self._descriptor)
                self._synced_at = time.monotonic()
        except OSError as error:
            raise DataError(
                f"{self.folder}: an answer could not be stored ({error.strerror}); asking stopped"
            ) from None

    def _open(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        return os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
