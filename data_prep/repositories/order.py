"""The order of a repository's files: what a file needs stands before it, wherever that is possible.

Tarjan's algorithm finds the cycles (strongly connected components) and gives them in this very order, with what is
needed right before what needs it first. Where nothing decides, a hash keyed by seed and repository does: whole folders
first, then the names in them.
"""

import hashlib
from collections.abc import Collection, Sequence

from data_prep.repositories.files import File, folder_of


def in_order(files: Sequence[File], needs: Sequence[Sequence[int]], ordered: Collection[str], key: str) -> list[int]:
    """Positions of the files: first those of languages that are not `ordered`, at random, then dependencies first.

    `key` is what the hashes depend on besides paths.
    """
    at_random = [index for index, file in enumerate(files) if file.language not in ordered]
    at_random.sort(key=lambda index: (_hash(key, files[index].path), files[index].path))
    folders = {folder_of(file.path): _hash(key, folder_of(file.path)) for file in files}
    rest = [index for index, file in enumerate(files) if file.language in ordered]
    rest.sort(key=lambda index: (folders[folder_of(files[index].path)], files[index].path))
    kept = set(rest)
    return at_random + [index for group in cycles(needs, rest) for index in group if index in kept]


def _hash(key: str, path: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{path}".encode(), digest_size=8).digest()


def cycles(needs: Sequence[Sequence[int]], starts: Sequence[int]) -> list[list[int]]:
    """The strongly connected components that can be reached from `starts`, each after all that it needs.

    Files of one component come in the order in which a depth-first walk leaves them, so that within a cycle, too, most
    imports point backwards. Neighbours are looked at in the order of `starts`.
    """
    rank = {index: place for place, index in enumerate(starts)}
    number: dict[int, int] = {}  # when a file was first seen
    lowest: dict[int, int] = {}
    left: dict[int, int] = {}  # when the walk left a file
    waiting: list[int] = []
    is_waiting: set[int] = set()
    found: list[list[int]] = []
    for start in starts:
        walk = [] if start in number else [(start, iter(()))]
        while walk:
            index, others = walk[-1]
            if index not in number:
                number[index] = lowest[index] = len(number)
                waiting.append(index)
                is_waiting.add(index)
                others = iter(sorted(needs[index], key=lambda other: rank.get(other, len(rank) + other)))
                walk[-1] = (index, others)
            for other in others:
                if other not in number:
                    walk.append((other, iter(())))
                    break
                if other in is_waiting:
                    lowest[index] = min(lowest[index], number[other])
            else:
                walk.pop()
                left[index] = len(left)
                if walk:
                    above = walk[-1][0]
                    lowest[above] = min(lowest[above], lowest[index])
                if lowest[index] == number[index]:
                    at = _position(waiting, index)
                    group = sorted(waiting[at:], key=left.__getitem__)
                    del waiting[at:]
                    is_waiting.difference_update(group)
                    found.append(group)
    return found


def _position(waiting: Sequence[int], index: int) -> int:
    """Where a file stands, looked for from the end, where it mostly is."""
    at = len(waiting) - 1
    while waiting[at] != index:
        at -= 1
    return at


def component_of(groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """File -> number of its strongly connected component."""
    return {index: number for number, group in enumerate(groups) for index in group}


def connected(count: int, needs: Sequence[Sequence[int]]) -> list[int]:
    """For each of `count` files the smallest file that imports connect it with, whatever their direction."""
    root = list(range(count))

    def top(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for index, others in enumerate(needs):
        for other in others:
            one, two = top(index), top(other)
            root[max(one, two)] = min(one, two)
    return [top(index) for index in range(count)]


def parts_under(
    order: Sequence[int], sizes: Sequence[int], needs: Sequence[Sequence[int]], limit: int
) -> list[list[int]]:
    """The order cut into parts of at most `limit` in size.

    A repository that fits is one part. Of another, files that imports connect stay together: such subgraphs are packed
    into parts as they come in the order. A subgraph that does not fit by itself is cut into slices of the order; a file
    that does not fit is a part of its own.
    """
    if sum(sizes[index] for index in order) <= limit:
        return [list(order)]
    of = connected(len(sizes), needs)
    subgraphs: dict[int, list[int]] = {}
    for index in order:
        subgraphs.setdefault(of[index], []).append(index)
    small = [members for members in subgraphs.values() if sum(sizes[index] for index in members) <= limit]
    large = [members for members in subgraphs.values() if sum(sizes[index] for index in members) > limit]
    parts = _packed(small, sizes, limit)
    for members in large:
        parts += _packed([[index] for index in members], sizes, limit)
    return parts


def _packed(groups: Sequence[Sequence[int]], sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Groups one after the other; a part ends where the next group would not fit."""
    parts: list[list[int]] = []
    filled = limit + 1
    for group in groups:
        size = sum(sizes[index] for index in group)
        if filled + size > limit:
            parts.append([])
            filled = 0
        parts[-1] += group
        filled += size
    return parts
