"""Which documents of a build are shown: drawn by hashes of a seed, so the same ones for as long as it has as many."""

import hashlib
from collections.abc import Callable, Iterator

from data_prep.inspect.reader import BuildReader

_TRIES = 200  # for each document that is asked for


def choose(
    build: BuildReader, count: int, seed: int, wanted: Callable[[int], bool] = lambda number: True
) -> Iterator[int]:
    """Up to `count` numbers of documents, none twice, for which `wanted` holds; fewer when they are hard to find."""
    if build.documents <= count:
        yield from filter(wanted, range(build.documents))
        return
    seen: set[int] = set()
    found = 0
    for draw in range(_TRIES * count):
        if found == count or len(seen) == build.documents:
            return
        number = int.from_bytes(hashlib.blake2b(f"{seed}\0{draw}".encode(), digest_size=8).digest(), "big")
        number = number * build.documents >> 64
        if number not in seen and wanted(number):
            found += 1
            yield number
        seen.add(number)
