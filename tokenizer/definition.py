"""What a `tokenizer.json` says: its ids, a digest of what defines them, and variants of it for raw text.

All functions take the parsed JSON (`spec`) and leave it as it is.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Collection
from typing import Any

from tokenizer.errors import TokenizerError

SPACE_SYMBOL = "\u2581"
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def token_ids(spec: dict[str, Any]) -> dict[str, int]:
    """Token string -> id, of the vocabulary and of the added tokens."""
    vocab = spec["model"].get("vocab", {})
    ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: index for index, entry in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in spec.get("added_tokens") or []}


def definition_digest(spec: dict[str, Any]) -> str:
    """SHA-256 (hex) of the parts that decide which ids a text gets."""
    parts = {key: spec.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def token_sizes(spec: dict[str, Any], markers: Collection[str]) -> dict[int, int] | None:
    """Id -> UTF-8 bytes of text that it stands for; special tokens (those flagged so and `markers`) stand for none.

    None where a token's text depends on its neighbours: with decoders other than byte-level and byte fallback.
    """
    decoder = spec.get("decoder") or {}
    steps = [step["type"] for step in decoder.get("decoders", [decoder]) if "type" in step]
    if steps not in (["ByteLevel"], ["ByteFallback", "Fuse"]):
        return None
    added = spec.get("added_tokens") or []
    special = {token["content"] for token in added if token["special"]} | set(markers)
    literal = {token["content"] for token in added}

    byte_level = steps == ["ByteLevel"]

    def size(token: str) -> int:
        if token in special:
            return 0
        if byte_level and token not in literal:
            return len(token)  # a character for each byte
        return 1 if not byte_level and BYTE_TOKEN.fullmatch(token) else len(token.encode())

    return {index: size(token) for token, index in token_ids(spec).items()}


def for_raw_text(spec: dict[str, Any], markers: Collection[str]) -> dict[str, Any]:
    """The same tokenizer without special tokens, so that their strings in a text are text like any other.

    Special are the added tokens flagged so and `markers`. They get names that no text holds, in the vocabulary (which
    some models search for whole words) and among the added tokens; ids stay the same. No token is added around a text.
    """
    added = spec.get("added_tokens") or []
    hidden = {token["content"] for token in added if token["special"]} | set(markers)
    nonce = secrets.token_hex(16)  # so that no text, not even one made for it, names a hidden token
    names = {token: f"<{nonce}-{index}>" for token, index in token_ids(spec).items() if token in hidden}
    model = dict(spec["model"])
    vocab = model.get("vocab", {})
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocab.items()}
        model["unk_token"] = names.get(model.get("unk_token"), model.get("unk_token"))
    else:
        model["vocab"] = [[names.get(entry[0], entry[0]), *entry[1:]] for entry in vocab]
    in_vocab = {entry if isinstance(entry, str) else entry[0] for entry in vocab}
    return {
        **spec,
        "model": model,
        # Added tokens outside the vocabulary are numbered in their order, so none of them may be left out.
        "added_tokens": [
            {**token, "content": names.get(token["content"], token["content"])}
            for token in added
            if token["content"] not in hidden or token["content"] not in in_vocab
        ],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }


def with_space_symbols(spec: dict[str, Any]) -> dict[str, Any] | None:
    """A byte-fallback BPE with real spaces in its pieces, rewritten to one with U+2581 and a normalizer that puts them.

    Gives the same ids for texts without U+2581. An encoder that knows sentencepiece's spelling can then work word by
    word, which is several times faster. None where `spec` is not such a tokenizer.
    """
    model = spec["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback") or spec.get("normalizer") or spec["pre_tokenizer"]:
        return None
    if " " not in model["vocab"] or any(SPACE_SYMBOL in token for token in model["vocab"]) or spec["added_tokens"]:
        return None
    if not all(isinstance(merge, list) for merge in model["merges"]):
        return None
    rewritten = {
        **model,
        "vocab": {token.replace(" ", SPACE_SYMBOL): index for token, index in model["vocab"].items()},
        "merges": [[part.replace(" ", SPACE_SYMBOL) for part in merge] for merge in model["merges"]],
    }
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_SYMBOL}
    return {**spec, "model": rewritten, "normalizer": normalizer}


def parse_definition(data: bytes, where: str) -> dict[str, Any]:
    """Parses a `tokenizer.json`. Raises `TokenizerError` when it is not one."""
    try:
        spec = json.loads(data)
    except ValueError as error:
        raise TokenizerError(f"{where} is not JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise TokenizerError(f"{where} is not a Hugging Face tokenizer.json: it has no model")
    vocab = spec["model"].get("vocab")
    if not vocab or not isinstance(vocab, dict | list):
        raise TokenizerError(f"{where} is not a Hugging Face tokenizer.json: its model has no vocabulary")
    spec.setdefault("pre_tokenizer", None)
    spec.setdefault("added_tokens", [])
    return spec
