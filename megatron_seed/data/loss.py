"""Where the loss of a document begins: in builds of `data build --loss target` the tokens before a target are given.

Beside such a build lies `PREFIX.loss_starts.npy`, int32 [documents]: the first token of a document, counted in it, that
counts as a label; 0 where all of them do.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.manifest import read_manifest
from megatron_seed.errors import SeedError

SUFFIX = ".loss_starts.npy"


def with_loss_starts(build: IndexedTokens, loss: Literal["all", "target"] | None, thorough: bool) -> IndexedTokens:
    """The build with what a run that counts the loss of `loss` needs (None: what the build itself asks for).

    `thorough` takes the file's digest. Raises SeedError where targets are asked for and not recorded, and for a file
    that is missing, damaged or of another build.
    """
    manifest = read_manifest(build.prefix)
    recorded = manifest is not None and manifest.loss is not None
    if loss == "target" and not recorded:
        raise SeedError(
            f"{build.prefix}: does not record where targets begin, but the recipe asks for their loss alone; build it "
            "with `data build --loss target`, or leave that key out"
        )
    if loss == "all" or not recorded:
        return build
    starts = _read(build)
    if thorough:
        _check(build, starts, manifest.digest_of(SUFFIX))
    return dataclasses.replace(build, loss_starts=starts)


def loss_starts_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}{SUFFIX}")


def _read(build: IndexedTokens) -> np.ndarray:
    path = loss_starts_path(build.prefix)
    if not path.is_file():
        raise SeedError(f"{path}: no such file, but the build's manifest says that loss is on targets; make it again")
    try:
        starts = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SeedError(f"{path}: cannot be read: {error}") from None
    if starts.dtype != np.int32 or starts.shape != build.document_lengths.shape:
        raise SeedError(
            f"{path}: holds {starts.dtype} {list(starts.shape)}, but the build has {len(build.document_lengths)} "
            "documents; it belongs to other files"
        )
    return starts


def _check(build: IndexedTokens, starts: np.ndarray, digest: str | None) -> None:
    path = loss_starts_path(build.prefix)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if digest is not None and found != digest:
        raise SeedError(f"{path}: does not have the digest it was written with: damaged, or of another build")
    if ((starts < 0) | (starts > build.document_lengths)).any():
        raise SeedError(f"{path}: has targets outside of their documents; it belongs to other files")
