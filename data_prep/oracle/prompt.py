"""The prompt: one object for sampling, training and inference, so that all of them mean the same by a score.

A prompt is a YAML file; those that are shipped are known by name. The text of a document goes between two lines of a
mark that follows from the text and does not occur in it, so no document can pretend to end before it does.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data_prep.errors import DataError
from data_prep.shards import fingerprint

SHIPPED = Path(__file__).parent / "prompts"
PLACEHOLDERS = ("boundary", "language", "text")
LINE_SEARCH_BYTES = 2048  # how far a cut moves so as to fall between two lines


@dataclass(frozen=True)
class Request:
    """What is sent for one document: OpenAI `messages`, whether the document was cut for it, and the labels that may be
    answered (none: a rating is)."""

    messages: tuple[dict[str, str], ...]
    cut: bool
    answers: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(len(message["content"].encode()) for message in self.messages)


class Prompt(BaseModel):
    """A template with `$language`, `$text` and `$boundary`, what may be answered, and where a long text is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(min_length=1)
    template: str
    """What the user says."""
    system: str | None = None
    """What the system says before, if anything."""
    answers: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")], ...] = ()
    """The labels of which the oracle answers one, as `Label: [[X]]`. None: it rates, as `Rating: [[X]]`."""
    max_text_bytes: int = Field(32_768, ge=256)
    """A longer document is cut: parts of it, with lines that say so, make up this much at most."""
    head_share: float = Field(0.75, ge=0, le=1)
    """Of what is left of a cut document, its beginning makes up this much, its end the rest."""

    @field_validator("template")
    @classmethod
    def _placeholders(cls, template: str) -> str:
        found = Template(template)
        if not found.is_valid():
            raise ValueError("a dollar sign in it that starts no placeholder must be written $$")
        names = set(found.get_identifiers())
        if unknown := sorted(names - set(PLACEHOLDERS)):
            raise ValueError(f"${unknown[0]} is no placeholder; there are ${', $'.join(PLACEHOLDERS)}")
        if missing := sorted({"boundary", "text"} - names):
            raise ValueError(f"${missing[0]} is missing; the document stands between two lines of $boundary")
        return template

    @model_validator(mode="after")
    def _answers_are_asked_for(self) -> "Prompt":
        said = f"{self.system or ''}\n{self.template}"
        if len(self.answers) == 1 or len(set(self.answers)) < len(self.answers):
            raise ValueError("answers: two different ones at least, or none for a rating")
        if missing := [answer for answer in self.answers if not re.search(rf"\b{answer}\b", said)]:
            raise ValueError(f"answers: the template does not say what {missing[0]!r} means")
        if self.answers and not re.search(r"Label: \[\[", said):
            raise ValueError("answers: the template must ask for a line `Label: [[X]]`")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that decides what is asked."""
        return fingerprint(self._values())

    def _values(self) -> dict[str, Any]:
        """Without `answers` where a rating is asked for: such prompts keep the digests that scores were stored with."""
        return self.model_dump(mode="json", exclude=None if self.answers else {"answers"})

    @property
    def label(self) -> str:
        """Name, version and the start of the digest: tells apart prompts whose version was not raised."""
        return f"{self.name}@{self.version}+{self.digest[:8]}"

    def describe(self) -> dict[str, Any]:
        """All of it, to be kept with scores."""
        return {**self._values(), "digest": self.digest}

    def request(self, language: str, text: str) -> Request:
        """What to send for a document."""
        boundary = _boundary(text)
        shown = cut(text, self.max_text_bytes, self.head_share, boundary)
        content = Template(self.template).substitute(language=language, text=shown or text, boundary=boundary)
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return Request((*messages, {"role": "user", "content": content}), shown is not None, self.answers)


def load_prompt(reference: str) -> Prompt:
    """A prompt by its name among the shipped ones, or from a YAML file. Raises `DataError` where it is none."""
    path = SHIPPED / f"{reference}.yaml" if re.fullmatch(r"\w+", reference) else Path(reference)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Prompt.model_validate(values)
    except OSError:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise DataError(f"prompt {reference!r}: there is no such prompt or file (by name: {known})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"prompt {path}: {'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"prompt {path} is no YAML that can be read: {' '.join(str(error).split())}") from None


def _boundary(text: str) -> str:
    data = text.encode()
    for attempt in range(1000):
        boundary = f"=====[{hashlib.sha256(b'%d:' % attempt + data).hexdigest()[:16]}]====="
        if boundary not in text:
            return boundary
    raise DataError("a text holds a thousand of its own digests")


def cut(text: str, max_bytes: int, head_share: float, boundary: str) -> str | None:
    """The beginning and the end of a text of more than `max_bytes`, and a line between them that says what is missing.

    None where the text is not too long. Cuts fall between lines where one ends nearby, and never inside a character.
    """
    data = text.encode()
    if len(data) <= max_bytes:
        return None
    kept = max_bytes - len(_left_out(boundary, len(data)))
    head_bytes = int(kept * head_share)
    head = data[:head_bytes]
    newline = head.rfind(b"\n", max(0, len(head) - LINE_SEARCH_BYTES))
    head = head[: newline + 1] if newline >= 0 else head.decode(errors="ignore").encode()
    tail = data[len(data) - (kept - head_bytes) :] if kept > head_bytes else b""
    newline = tail.find(b"\n", 0, LINE_SEARCH_BYTES)
    tail = tail[newline + 1 :] if newline >= 0 else tail.decode(errors="ignore").encode()
    return head.decode() + _left_out(boundary, len(data) - len(head) - len(tail)) + tail.decode()


def _left_out(boundary: str, size_bytes: int) -> str:
    return f"\n{boundary} {size_bytes} bytes are left out here\n"
