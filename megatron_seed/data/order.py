"""The order of documents in an epoch: small ones made on the spot, large ones once, kept in files that are mapped."""

from __future__ import annotations

import bisect
import collections
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.data.files import write_whole
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
    digest = hashlib.sha256(f"{build.index_digest} {key}".encode())
    return cache / f"order-{digest.hexdigest()[:32]}.npy"


def write_order(path: Path, order: Order) -> None:
    """Whole or not at all, also when several nodes do it at once: all write the same bytes."""
    write_whole(path, lambda file: np.save(file, np.stack(order)))


class Orders(NamedTuple):
    """Large orders that a recipe needs."""

    made: int
    """Files made now."""
    present: int
    """Files that were there."""


class Reading(NamedTuple):
    """What a run has still to read."""

    phases: Sequence[PhaseConfig]
    """With the tokens that are left of them."""
    begins: Mapping[str, int]
    """Place of each source's stream from which on; 0 for those not named."""


def build_orders(
    recipe: Recipe,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
    reading: Reading | None = None,
) -> Orders:
    """Make every large order that a run will read, where it is not there already; without `reading` all of the recipe.

    `check` is called before each and may raise, to stop between two of them.
    """
    large = list(_large_orders(recipe, reading))
    wanted = [(build, key, path) for build, key, path in large if not path.is_file()]
    task = progress.add_task("document orders", total=len(wanted)) if progress else None
    for build, key, path in wanted:
        check()
        write_order(path, _make(build, key))
        if progress:
            progress.advance(task)
    return Orders(len(wanted), len(large) - len(wanted))


def missing_orders(recipe: Recipe, reading: Reading | None = None) -> list[Path]:
    return [path for _, _, path in _large_orders(recipe, reading) if not path.is_file()]


def _large_orders(recipe: Recipe, reading: Reading | None) -> Iterator[tuple[IndexedTokens, str, Path]]:
    """Of each phase the epochs that it reads of its sources, as far as they are too large to be made on the spot."""
    phases, begins = reading or Reading(recipe.phases, {})
    given: dict[str, float] = collections.defaultdict(float, begins)
    opened: dict[str, IndexedTokens] = {}
    seen: set[Path] = set()
    # A source may be ahead of what it has given, and have left something behind, by one block.
    slack = max(phase.shuffle_block * phase.sequence_length for phase in recipe.phases)
    for phase in phases:
        whole = sum(source.weight for source in phase.blend)
        for source in phase.blend:
            start = given[source.name]
            given[source.name] += phase.tokens * source.weight / whole
            for prefix in source.builds:
                opened[prefix] = opened.get(prefix) or IndexedTokens.open(prefix, thorough=False)
            builds = [opened[prefix] for prefix in source.builds]
            if all(len(build.document_lengths) < LARGE_DOCUMENTS for build in builds):
                continue
            for epoch in _epochs(builds, start - slack, given[source.name] + slack):
                build, key = builds[epoch % len(builds)], order_key(recipe.seed, source.name, epoch)
                if len(build.document_lengths) < LARGE_DOCUMENTS:
                    continue
                path = order_path(build, key, recipe.order_cache)
                if path not in seen:
                    seen.add(path)
                    yield build, key, path


def _epochs(builds: Sequence[IndexedTokens], start: float, stop: float) -> range:
    """The epochs in which positions [start, stop] of a source's stream lie."""
    ends = list(itertools.accumulate(build.token_count for build in builds))

    def epoch_of(position: float) -> int:
        rounds, rest = divmod(max(0, int(position)), ends[-1])
        return rounds * len(builds) + bisect.bisect_right(ends, rest)

    return range(epoch_of(start), epoch_of(stop) + 1)


def _make(build: IndexedTokens, key: str) -> Order:
    order = keyed_permutation(len(build.document_lengths), key)
    return Order(order, np.cumsum(build.document_lengths[order], dtype=np.int64))
