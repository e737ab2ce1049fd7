"""Holding builds against their manifests, every byte of them; a run's start reads their indices alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loss import with_loss_starts
from megatron_seed.data.manifest import check_manifest, read_manifest
from megatron_seed.errors import SeedError

_CHUNK_BYTES = 1 << 24


def find_damage(prefix: Path | str, advance: Callable[[int], None] = lambda size_bytes: None) -> str | None:
    """What is wrong with a build, None where every byte is as its manifest says; `advance` is told of bytes read."""
    try:
        build = IndexedTokens.open(prefix)
        check_manifest(build, None, None, thorough=True)
        with_loss_starts(build, None, thorough=True)
        manifest = read_manifest(prefix)
    except SeedError as error:
        return str(error)
    expected = manifest.digest_of(".bin") if manifest else None
    if expected is None:
        return f"{prefix}: has no manifest with digests to hold it against"
    digest = hashlib.sha256()
    with Path(f"{prefix}.bin").open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    if digest.hexdigest() != expected:
        return f"{prefix}.bin: does not have the digest it was written with"
    return None
