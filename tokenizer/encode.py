"""Text to ids and back, fast and exactly as the reference encoder does it."""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tokenizer import special
from tokenizer.definition import (
    SPACE_SYMBOL,
    definition_digest,
    for_raw_text,
    parse_definition,
    token_ids,
    token_sizes,
    with_space_symbols,
)
from tokenizer.directory import DESCRIPTION, NAMED_TOKENS
from tokenizer.errors import TokenizerError, require_unicode
from tokenizer.recent_characters import has_recent_characters
from tokenizer.special import ROLES, SpecialTokens

LOGGER = logging.getLogger(__name__)

# What of the first batch is encoded by the reference too: this many texts, this much of each.
CHECKED_TEXTS = 16
CHECKED_CHARACTERS = 4096


class Encoder:
    """A tokenizer for raw text and for prompts.

    Raw text goes through gigatoken, checked against Hugging Face tokenizers on a sample of the first batch; where they
    differ, or gigatoken cannot read the tokenizer, all goes through Hugging Face tokenizers, with a warning. Works on
    the calling thread alone: many workers each have their own, and pickling sends the path, not the tables.
    """

    def __init__(self, path: Path, spec: dict[str, Any], roles: Mapping[str, str]):
        self.path = path
        self.roles = dict(roles)
        self._spec = spec
        ids = token_ids(spec)
        unknown = [f"{role} ({string!r})" for role, string in roles.items() if string not in ids]
        if unknown:
            raise TokenizerError(f"{path}: no such token: {', '.join(unknown)}; name tokens as its tokenizer.json does")
        self.special = SpecialTokens(**{role: ids[string] for role, string in roles.items()})
        self.vocab_size = max(ids.values()) + 1
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.int32)
        self._unchecked = True

    @classmethod
    def load(cls, path: str | Path, roles: Mapping[str, str] | None = None) -> "Encoder":
        """Loads a tokenizer directory of ours, a directory with a `tokenizer.json`, or a `tokenizer.json`.

        `roles` maps roles to that tokenizer's own token strings, over what is known of it: our description beside it,
        strings like ours, or its `tokenizer_config.json`. Roles it has no token for stay None in `special`.
        Raises `TokenizerError` when there is no such tokenizer or a role names a token it does not have.
        """
        path = Path(path).absolute()
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            spec = parse_definition(file.read_bytes(), str(file))
        except OSError as error:
            raise TokenizerError(f"{file}: {error.strerror}; give a tokenizer directory or a tokenizer.json") from None
        unknown = sorted(set(roles or {}) - set(ROLES))
        if unknown:
            raise TokenizerError(f"no such role: {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
        return cls(path, spec, _known_roles(file.parent, spec) | dict(roles or {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoder.load, (self.path, self.roles)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what decides the ids."""
        return definition_digest(self._spec)

    @functools.cached_property
    def token_sizes(self) -> np.ndarray | None:
        """[vocab_size] int64: UTF-8 bytes of text that each id stands for, special tokens none.

        None for tokenizers in which that depends on a token's neighbours.
        """
        sizes = token_sizes(self._spec, self.roles.values())
        if sizes is None:
            return None
        table = np.zeros(self.vocab_size, np.int64)
        table[list(sizes)] = list(sizes.values())
        return table

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes raw texts: a special token's string in one is text like any other, and nothing is added around it.

        Returns ids `[total]` of `self.dtype`, one text after the other, and offsets `[len(texts) + 1]` int64: text i
        has `ids[offsets[i]:offsets[i + 1]]`. Raises `TokenizerError` naming the text that holds a lone surrogate.
        """
        texts = list(texts)
        try:
            if self._unchecked:
                self._check_fast(texts)
            encode_one = self._encode_reference if self._fast is None else self._encode_fast
            return _concatenate([encode_one(text) for text in texts], self.dtype)
        except (TypeError, UnicodeEncodeError):
            require_unicode(texts)  # which both encoders report less clearly
            raise

    def encode(self, text: str, markers: bool = False) -> list[int]:
        """Encodes one text. `markers=True` turns the strings of special tokens into their ids (for prompts)."""
        require_unicode([text])
        tokenizer = self._with_markers if markers else self._reference
        return tokenizer.encode(text, add_special_tokens=False).ids

    def encode_reference(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """What `encode_batch` is checked against: the same through Hugging Face tokenizers."""
        require_unicode(texts)
        return _concatenate([self._encode_reference(text) for text in texts], self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The exact inverse on raw text; special tokens come out as their strings."""
        return self._with_markers.decode(list(map(int, ids)), skip_special_tokens=False)

    @functools.cached_property
    def _raw_spec(self) -> dict[str, Any]:
        return for_raw_text(self._spec, self.roles.values())

    @functools.cached_property
    def _reference(self) -> Tokenizer:
        return _build(self._raw_spec, self.path)

    @functools.cached_property
    def _with_markers(self) -> Tokenizer:
        tokens = [
            {**token, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
            if token["content"] in self.roles.values()
            else token
            for token in self._spec["added_tokens"]
        ]
        return _build({**self._spec, "added_tokens": tokens, "truncation": None, "padding": None}, self.path)

    @functools.cached_property
    def _fast(self) -> Any | None:
        """The gigatoken backend, None where it cannot read the tokenizer."""
        import gigatoken  # brings much along, which only encoding a batch is worth

        try:
            return gigatoken.Tokenizer.from_json(json.dumps(self._spaced_spec or self._raw_spec)).backend
        except Exception as error:  # gigatoken raises several types, its Rust reports among them
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            LOGGER.warning("%s: gigatoken cannot read it (%s); encoding with tokenizers", self.path, reason)
            return None

    @functools.cached_property
    def _spaced_spec(self) -> dict[str, Any] | None:
        return with_space_symbols(self._raw_spec)

    def _check_fast(self, texts: list[str]) -> None:
        self._unchecked = False
        sample = [text[:CHECKED_CHARACTERS] for text in texts[:CHECKED_TEXTS]]
        if self._fast is None:
            return
        if any(not np.array_equal(self._encode_fast(text), self._encode_reference(text)) for text in sample):
            LOGGER.warning("%s: gigatoken and tokenizers give different ids; encoding with tokenizers", self.path)
            self._fast = None

    def _encode_reference(self, text: str) -> list[int]:
        return self._reference.encode(text, add_special_tokens=False).ids

    def _encode_fast(self, text: str) -> Sequence[int] | np.ndarray:
        # In these the fast encoder may take a character for another.
        if SPACE_SYMBOL in text if self._spaced_spec else has_recent_characters(text):
            return self._encode_reference(text)
        return self._fast.encode(text)  # text by text: as fast as its batches, which need another large library


def _known_roles(directory: Path, spec: dict[str, Any]) -> dict[str, str]:
    """Role -> token string, as far as the files in `directory` say."""
    description = _read_json(directory / DESCRIPTION)
    if description is not None:
        try:
            return {role: token["token"] for role, token in description["special"].items()}
        except (KeyError, TypeError, AttributeError):
            raise TokenizerError(f"{directory / DESCRIPTION}: does not describe a tokenizer; export it again") from None
    ids = token_ids(spec)
    config = _read_json(directory / "tokenizer_config.json") or {}
    named = {role: config[f"{role}_token"] for role in NAMED_TOKENS if config.get(f"{role}_token")}
    strings = {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}
    return {role: string for role, string in ({**special.STRINGS, **strings}).items() if string in ids}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: an object is expected, not {type(values).__name__}")
    return values


def _build(spec: dict[str, Any], path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as error:  # the library raises a bare Exception
        raise TokenizerError(f"{path}: the tokenizers library cannot read it: {error}") from None


def _concatenate(parts: Sequence[Sequence[int] | np.ndarray], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    ids = np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.empty(0, dtype)
    return ids, offsets
