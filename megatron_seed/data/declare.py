"""Declaring builds that were made elsewhere: their ids are held against a vocabulary, and get a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from megatron_seed.data.files import write_whole
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.manifest import manifest_path
from megatron_seed.errors import SeedError
from tokenizer.encode import Encoder

FORMAT = "megatron_seed.build/1"
"""That of the manifests of `data build`."""
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a build are held against."""

    name: str
    size: int
    """Ids must be below."""
    digest: str | None = None
    eos_id: int | None = None
    token_sizes: np.ndarray | None = None
    """[size] int64, UTF-8 bytes that each id stands for, where the tokenizer tells."""

    @classmethod
    def of_tokenizer(cls, path: Path) -> Vocabulary:
        """Raises `TokenizerError` when there is none."""
        encoder = Encoder.load(path)
        return cls(f"tokenizer {path}", encoder.vocab_size, encoder.digest, encoder.special.eos, encoder.token_sizes)

    @classmethod
    def of_size(cls, size: int) -> Vocabulary:
        """For builds of which only the ids are known."""
        return cls("the declared vocabulary", size)


def declare(
    prefixes: Sequence[Path | str],
    vocabulary: Vocabulary,
    fim_rate: float = 0.0,
    force: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Read all ids of builds and write `PREFIX.manifest.json` beside each; returns the manifests.

    `fim_rate` is the share of documents with fill-in-the-middle that the files were made with. A build that was
    declared alike already is left alone. Raises SeedError, before any is read, for files that are damaged and for a
    manifest that says something else (unless `force`), and for the first document with an id outside the vocabulary.
    """
    builds = [IndexedTokens.open(prefix) for prefix in dict.fromkeys(map(Path, prefixes))]
    declaration = _declaration(vocabulary, fim_rate)
    there = [None if force else _declared_alike(build, declaration) for build in builds]
    missing = sum(build.token_count for build, manifest in zip(builds, there, strict=True) if manifest is None)
    task = progress.add_task("reading ids", total=missing) if progress else None

    def advance(tokens: int) -> None:
        if progress:
            progress.advance(task, tokens)

    return [
        manifest or _write(build, declaration, vocabulary, advance)
        for build, manifest in zip(builds, there, strict=True)
    ]


def _declaration(vocabulary: Vocabulary, fim_rate: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "declared": True,
        "tokenizer": {"digest": vocabulary.digest, "vocab_size": vocabulary.size, "eos_id": vocabulary.eos_id},
        "fim": {"rate": fim_rate},
    }


def _declared_alike(build: IndexedTokens, declaration: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a build that was declared in the same way; None without one, SeedError for another."""
    path = manifest_path(build.prefix)
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        alike = manifest.items() >= declaration.items()
        same_files = all(
            path.with_name(name).stat().st_size == f["size_bytes"] for name, f in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        alike = same_files = False
    if not (alike and same_files):
        raise SeedError(f"{path}: is there already and does not say the same; --force replaces it")
    return manifest


def _write(
    build: IndexedTokens, declaration: dict[str, Any], vocabulary: Vocabulary, advance: Callable[[int], None]
) -> dict[str, Any]:
    name = build.prefix.name
    binary, size_bytes = _scan(build, vocabulary, advance)
    index = {"size_bytes": Path(f"{build.prefix}.idx").stat().st_size, "sha256": build.index_digest}
    manifest = {
        "format": FORMAT,
        "name": name,
        "dtype": build.dtype.name,
        "documents": len(build.document_lengths),
        "tokens": build.token_count,
        **({} if size_bytes is None else {"size_bytes": size_bytes}),
        **declaration,
        "files": {f"{name}.bin": binary, f"{name}.idx": index},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_whole(manifest_path(build.prefix), lambda file: file.write(text.encode()))
    return manifest


def _scan(
    build: IndexedTokens, vocabulary: Vocabulary, advance: Callable[[int], None]
) -> tuple[dict[str, Any], int | None]:
    """Size and digest of the `.bin`, and the bytes of text in it; SeedError for an id outside the vocabulary."""
    digest, sizes, size_bytes = hashlib.sha256(), vocabulary.token_sizes, 0
    if sizes is not None:
        sizes = sizes.astype(np.min_scalar_type(int(sizes.max())))  # a table that stays in the processor's cache
    for start in range(0, build.token_count, _CHUNK_TOKENS):
        chunk = build.tokens[start : start + _CHUNK_TOKENS]
        if chunk.min() < 0 or chunk.max() >= vocabulary.size:
            raise _outside(build, vocabulary, start + int(np.argmax((chunk < 0) | (chunk >= vocabulary.size))))
        digest.update(chunk)
        if sizes is not None:
            size_bytes += int(sizes[chunk].sum(dtype=np.int64))
        advance(len(chunk))
    entry = {"size_bytes": build.token_count * build.dtype.itemsize, "sha256": digest.hexdigest()}
    return entry, size_bytes if sizes is not None else None


def _outside(build: IndexedTokens, vocabulary: Vocabulary, place: int) -> SeedError:
    document = int(np.searchsorted(build.starts, place, side="right")) - 1
    return SeedError(
        f"{build.prefix}: token {place - build.starts[document]} of document {document} has id {build.tokens[place]}, "
        f"but {vocabulary.name} has {vocabulary.size} ids, 0 to {vocabulary.size - 1}"
    )
