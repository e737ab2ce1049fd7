"""The order of documents in an epoch: small ones made on the spot, large ones once, kept in files that are mapped."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from megatron_seed.config.schema import Recipe
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.keyed import keyed_permutation

LARGE_DOCUMENTS = 2_000_000
"""From here on an order is kept in a file: making it takes seconds, and every rank of a node would hold it."""


class Order(NamedTuple):
    documents: np.ndarray
    """[documents], document at each place."""
    ends: np.ndarray
    """[documents], tokens up to the end of the document at each place."""


def order_key(seed: int, source: str, epoch: int) -> str:
    return f"{seed}:{source}:{epoch}"


def epoch_order(build: IndexedTokens, key: str, cache: Path | None) -> Order:
    """The order of a build's documents under a key; a large one from its file, which is made if it is missing."""
    if cache is None or len(build.document_lengths) < LARGE_DOCUMENTS:
        return _make(build, key)
    path = order_path(build, key, cache)
    if not path.is_file():
        write_order(path, _make(build, key))
    return Order(*np.load(path, mmap_mode="r"))


def order_path(build: IndexedTokens, key: str, cache: Path) -> Path:
    """Named after the index's content and the key."""
    digest = hashlib.sha256(key.encode())
    with Path(f"{build.prefix}.idx").open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return cache / f"order-{digest.hexdigest()[:32]}.npy"


def write_order(path: Path, order: Order) -> None:
    """Whole or not at all, also when several nodes do it at once: all write the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, np.stack(order))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def build_orders(recipe: Recipe, progress: Progress | None = None) -> int:
    """Make every large order that the recipe's phases will read; returns how many were made now."""
    wanted = [(build, key, path) for build, key, path in _large_orders(recipe) if not path.is_file()]
    task = progress.add_task("document orders", total=len(wanted)) if progress else None
    for build, key, path in wanted:
        write_order(path, _make(build, key))
        if progress:
            progress.advance(task)
    return len(wanted)


def missing_orders(recipe: Recipe) -> list[Path]:
    return [path for _, _, path in _large_orders(recipe) if not path.is_file()]


def _large_orders(recipe: Recipe) -> Iterator[tuple[IndexedTokens, str, Path]]:
    given: dict[str, float] = {}
    builds: dict[str, tuple[str, ...]] = {}
    for phase in recipe.phases:
        whole = sum(source.weight for source in phase.blend)
        for source in phase.blend:
            given[source.name] = given.get(source.name, 0.0) + phase.tokens * source.weight / whole
            builds[source.name] = source.builds
    for name, prefixes in builds.items():
        opened = [IndexedTokens.open(prefix, thorough=False) for prefix in prefixes]
        if not any(len(build.document_lengths) >= LARGE_DOCUMENTS for build in opened):
            continue
        epochs = math.ceil(given[name] / (sum(build.token_count for build in opened) / len(opened))) + 1
        for epoch in range(epochs):
            build, key = opened[epoch % len(opened)], order_key(recipe.seed, name, epoch)
            if len(build.document_lengths) >= LARGE_DOCUMENTS:
                yield build, key, order_path(build, key, recipe.order_cache)


def _make(build: IndexedTokens, key: str) -> Order:
    order = keyed_permutation(len(build.document_lengths), key)
    return Order(order, np.cumsum(build.document_lengths[order], dtype=np.int64))
