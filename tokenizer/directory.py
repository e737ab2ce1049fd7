"""The directory of a tokenizer: what `transformers` reads, and `seed_tokenizer.json`, which says what it is."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenizer.definition import definition_digest, token_ids
from tokenizer.errors import TokenizerError

DESCRIPTION = "seed_tokenizer.json"
FORMAT = "megatron_seed.tokenizer/1"
# The roles that transformers has a named attribute for.
NAMED_TOKENS = ("bos", "eos", "pad", "unk", "mask", "sep")


def write_directory(
    out: Path,
    tokenizer: Tokenizer,
    kind: str,
    roles: Mapping[str, str],
    files: Mapping[str, bytes],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the directory whole or not at all, in the place of an older tokenizer; returns its description.

    `roles` maps roles to token strings; `files` are further files to put beside. Raises `TokenizerError` when `out`
    holds something that is not a tokenizer, or a role names a token that the tokenizer does not have.
    """
    spec = json.loads(tokenizer.to_str())
    ids = token_ids(spec)
    missing = [f"{role} ({string!r})" for role, string in roles.items() if string not in ids]
    if missing:
        raise TokenizerError(f"the tokenizer has no such token: {', '.join(missing)}")
    description = {
        "format": FORMAT,
        "kind": kind,
        "vocab_size": max(ids.values()) + 1,
        "digest": definition_digest(spec),
        "special": {role: {"token": string, "id": ids[string]} for role, string in roles.items()},
        "training": dict(training),
    }
    contents = {
        **files,
        "tokenizer.json": _json(spec),
        "tokenizer_config.json": _json(_transformers_config(roles)),
        DESCRIPTION: _json(description),
    }
    _replace_directory(out, contents)
    return description


def _transformers_config(roles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,  # read by converters for llama.cpp, which otherwise put a space before each text
        **{f"{role}_token": roles[role] for role in NAMED_TOKENS if role in roles},
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _replace_directory(out: Path, contents: Mapping[str, bytes]) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "tokenizer.json").is_file())):
        raise TokenizerError(f"{out} is there and is not a tokenizer: name a directory that is new, empty or one")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        for name, data in contents.items():
            with open(temporary / name, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        if out.exists():
            old = temporary.with_suffix(".old")
            os.rename(out, old)
            os.rename(temporary, out)
            shutil.rmtree(old)
        else:
            os.rename(temporary, out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(temporary)
