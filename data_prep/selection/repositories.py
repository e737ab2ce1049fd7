"""Which repositories are held out (see `data_prep.held_out`), in P tasks by the hash of their names.

Each shard lists its distinct repositories that are left, and those in families. Tasks by hash decide those in no family
and send the others on, by family, to tasks that see a family whole. A name in two sources connects their families:
such pairs are joined by the process that hands out tasks, which holds 32 bytes for each and nothing for any other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.partitions import (
    Output,
    Runner,
    group_bounds,
    open_columns,
    open_run,
    positions,
    read_runs,
    record_type,
    records,
    side_path,
    take_rows,
    to_numpy,
    words_of,
    write_columns,
    write_run,
    write_side_run,
)
from data_prep.shards import ShardTask, fingerprint, write_atomic

RUN, NAME_RECORDS, EDGES, PINNED = "repositories.npy", "families.npy", "edges.npy", "pinned.arrow"
LEFT, IN_FAMILY, KEPT, HELD = 1, 2, 4, 8  # flags
_RECORD = record_type(hash_1="<u8", hash_2="<u8", hash_3="<u8", family="<u8", family_low="<u8", row="<u4", flags="u1")
_HASH = ("key", "hash_1", "hash_2", "hash_3")  # the SHA-256 that decides, as big-endian words
_SENT = record_type(family_low="<u8", hash_0="<u8", hash_1="<u8", hash_2="<u8", hash_3="<u8", where="<u8", flags="u1")
_SENT_HASH = ("hash_0", "hash_1", "hash_2", "hash_3")
_PIN = record_type(hash_1="<u8", hash_2="<u8", hash_3="<u8")
_EDGE = record_type(low="<u8", to="<u8", to_low="<u8")
_SIDE = record_type(value="u1")


@dataclass(frozen=True)
class Sides:
    """Runs by position of a shard's repositories: value 1 for those that are held out."""

    paths: tuple[Path, ...]
    digest: str
    pinned: list[str]
    left: int
    """Distinct names that are left."""
    held: int
    """Those of them that are held out."""


def repository_records(names: Sequence[str], left: np.ndarray, families: pa.Table, seed: int) -> np.ndarray:
    """A record for each distinct repository of a shard that is left, and for each family that one is of."""
    member = to_numpy(families["repository"])
    lone = np.setdiff1d(left, member)
    rows = np.concatenate([lone, member]).astype(np.int64)
    flags = np.where(np.isin(rows, left), LEFT, 0).astype(np.uint8)
    flags[len(lone) :] |= np.where(to_numpy(families["kept"]), IN_FAMILY | KEPT, IN_FAMILY).astype(np.uint8)
    words = np.zeros((len(rows), 2), np.uint64)
    words[len(lone) :] = words_of(families["family"])
    hashes = _hashes([names[row] for row in rows], seed)
    columns = dict(zip(_HASH, hashes.T, strict=True))
    return records(_RECORD, **columns, family=words[:, 0], family_low=words[:, 1], row=rows, flags=flags)


def _hashes(names: Sequence[str], seed: int) -> np.ndarray:
    """SHA-256 of "<seed>:<name>" as big-endian words, uint64 [names, 4]."""
    data = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names)
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 4)


def place_repositories(
    config: HeldOut, pinned: Sequence[str], decided: Output, names: Sequence[Path], runner: Runner, work: Path
) -> Sides:
    """Sides of all repositories. Raises `DataError` when one of the two sides would have none."""
    pins = sorted(set(pinned)) if config.fraction else []
    sides, candidates = _place(config, pins, decided, names, runner, work)
    missing = config.minimum_repositories - sides.held
    if config.fraction and missing > 0 and candidates:
        for _, members, group in candidates[:missing]:
            pins += group
            missing -= members
            if missing <= 0:
                break
        sides, _ = _place(config, sorted(set(pins)), decided, names, runner, work)
    if sides.held == sides.left or (config.fraction and sides.held < config.minimum_repositories):
        raise DataError(
            f"{sides.left} repositories cannot be split: {sides.held} held out (at least "
            f"{config.minimum_repositories} needed), {sides.left - sides.held} trained on (at least 1 needed); add "
            "repositories, or set held_out.fraction to 0"
        )
    return sides


def _place(
    config: HeldOut, pins: list[str], decided: Output, names: Sequence[Path], runner: Runner, work: Path
) -> tuple[Sides, list[list[Any]]]:
    """Sides with these pins, and what could be held out besides: [hash, repositories left, names], smallest first."""
    columns = dict(zip(_HASH, _hashes(pins, config.seed).T, strict=True))
    digest = write_atomic(work / "pinned" / "pins.npy", lambda stream: write_run(stream, records(_PIN, **columns)))
    runs = decided.side(RUN)
    bound = int(config.threshold()[:16], 16)  # below it by the first 64 bits is below it: its others are 0
    inputs = fingerprint(decided.digest, digest.sha256, config.model_dump())
    args = (runs, work / "pinned" / "pins.npy", names, bound, config.minimum_repositories)
    alone = runner.reduce("repositories", work / "repositories", sort_names, inputs, args)
    outputs = [alone]
    if alone.total("sent"):
        sent = _connected(alone, runner, work)
        inputs = fingerprint(sent.digest, config.minimum_repositories)
        args = (sent.paths, names, config.minimum_repositories)
        outputs.append(runner.reduce("families", work / "families", sort_families, inputs, args))
        if config.fraction:
            pins = pins + [n for path in outputs[1].side(PINNED) for n in open_columns(path)["repository"].to_pylist()]
    paths = tuple(path for output in outputs for path in output.paths)
    left, held = (sum(output.total(counter) for output in outputs) for counter in ("left", "held"))
    candidates = sorted(one for output in outputs for manifest in output.manifests for one in manifest["candidates"])
    sides = Sides(paths, fingerprint([output.digest for output in outputs]), sorted(set(pins)), left, held)
    return sides, candidates


def sort_names(
    stream: BinaryIO,
    output: Path,
    key_range: tuple[int, int],
    runs: Sequence[Path],
    pins: Path,
    names: Sequence[Path],
    bound: int,
    minimum: int,
) -> dict[str, Any]:
    """Partition function: sides of repositories that are in no family; what is in one is sent on, beside."""
    found, shards = read_runs(runs, key_range)
    where = positions(shards, found["row"])
    elsewhere = found["flags"] & IN_FAMILY == 0  # a name can be in no family in another source, or in several
    order = np.lexsort([found["family_low"], found["family"], elsewhere, *(found[name] for name in reversed(_HASH))])
    found, where = found[order], where[order]
    starts, ends = group_bounds(*(found[name] for name in _HASH))
    flags = np.bitwise_or.reduceat(found["flags"], starts) if len(starts) else found["flags"]
    first = found[starts]
    decides = (flags & IN_FAMILY == 0) | (flags & KEPT > 0)
    flags[decides & (first["key"] < np.uint64(bound)) | _pinned(first, pins, key_range)] |= HELD
    alone, held, left = (flags & IN_FAMILY == 0), flags & HELD > 0, flags & LEFT > 0
    each = np.repeat(np.arange(len(starts)), ends - starts)
    written = write_run(stream, _held_at(where[(alone & held)[each]]))
    sent = ~alone[each]
    columns = dict(zip(_SENT_HASH, (found[name][sent] for name in _HASH), strict=True))
    own = first[each][sent]  # of several families of a name, the first; edges say that they are one
    records_sent = records(_SENT, key=own["family"], family_low=own["family_low"], where=where[sent],
                           flags=flags[each][sent], **columns)  # fmt: skip
    other = found[sent]
    apart = (other["family"] != own["family"]) | (other["family_low"] != own["family_low"])
    apart &= other["flags"] & IN_FAMILY > 0
    edges = records(_EDGE, key=other["family"], low=other["family_low"], to=own["family"], to_low=own["family_low"])
    more = np.flatnonzero(alone & left & ~held)[:minimum]
    more_names = take_rows(names, where[starts[more]], ["repository"])["repository"].to_pylist()
    return {
        **written,
        "left": int((alone & left).sum()),
        "held": int((alone & left & held).sum()),
        "sent": len(records_sent),
        "edges": int(apart.sum()),
        "candidates": [[_hex(first[at], _HASH), 1, [name]] for at, name in zip(more, more_names, strict=True)],
        "files": write_side_run(side_path(output, NAME_RECORDS), records_sent)
        | write_side_run(side_path(output, EDGES), np.unique(edges[apart])),
    }


def _pinned(first: np.ndarray, pins: Path, key_range: tuple[int, int]) -> np.ndarray:
    known, _ = read_runs([pins], key_range)
    wanted = {tuple(int(one[name]) for name in _HASH) for one in known}
    found = np.isin(first["key"], known["key"])
    for at in np.flatnonzero(found):
        found[at] = tuple(int(first[at][name]) for name in _HASH) in wanted
    return found


def _held_at(where: np.ndarray) -> np.ndarray:
    return records(_SIDE, key=np.unique(where), value=np.ones(len(np.unique(where)), np.uint8))


def _hex(record: np.void, words: Sequence[str]) -> str:
    return "".join(f"{int(record[name]):016x}" for name in words)


def _connected(alone: Output, runner: Runner, work: Path) -> Output:
    """The runs of what is in families, by family, once families that a name connects have one key."""
    sent = Output(alone.side(NAME_RECORDS), alone.manifests)
    if not alone.total("edges"):
        return sent
    edges = np.concatenate([np.array(open_run(path)) for path in alone.side(EDGES)])
    moved = _roots([((int(e["key"]), int(e["low"])), (int(e["to"]), int(e["to_low"]))) for e in edges])
    tasks = []
    for index, path in enumerate(sent.paths):
        made_of = fingerprint(sent.digest, index)
        tasks.append(ShardTask(work / "connected" / f"{index:05d}.npy", made_of, connect, (path,), (moved,)))
    return runner.run("families with names in common", tasks)


def connect(stream: BinaryIO, sent: Path, moved: Mapping[tuple[int, int], tuple[int, int]]) -> dict[str, Any]:
    """Task: a run of what is in families, with the keys that connected families have in common."""
    found = np.array(open_run(sent))
    keys = np.array(sorted({key for key, _ in moved}), np.uint64)
    for at in np.flatnonzero(np.isin(found["key"], keys)):
        family = (int(found["key"][at]), int(found["family_low"][at]))
        found["key"][at], found["family_low"][at] = moved.get(family, family)
    return write_run(stream, found)


Family = tuple[int, int]


def _roots(edges: Sequence[tuple[Family, Family]]) -> dict[Family, Family]:
    """Of connected families the first; those that are it themselves are left out."""
    parent: dict[Family, Family] = {}

    def root(family: Family) -> Family:
        parent.setdefault(family, family)
        while parent[family] != family:
            parent[family] = parent[parent[family]]
            family = parent[family]
        return family

    for edge in edges:
        one, other = sorted(map(root, edge))
        parent[other] = one
    return {family: root(family) for family in list(parent) if root(family) != family}


def sort_families(
    stream: BinaryIO,
    output: Path,
    key_range: tuple[int, int],
    runs: Sequence[Path],
    names: Sequence[Path],
    minimum: int,
) -> dict[str, Any]:
    """Partition function: sides of repositories in families; beside, the names of all that are held out."""
    found, _ = read_runs(runs, key_range)
    order = np.lexsort([found[name] for name in (*reversed(_SENT_HASH), "family_low", "key")])
    found = found[order]
    starts, ends = group_bounds(found["key"], found["family_low"])
    group = np.repeat(np.arange(len(starts)), ends - starts)
    held = np.bitwise_or.reduceat(found["flags"], starts) & HELD > 0 if len(starts) else np.zeros(0, bool)
    written = write_run(stream, _held_at(found["where"][held[group]]))
    name, _ = group_bounds(found["key"], found["family_low"], *(found[word] for word in _SENT_HASH))
    left = np.bincount(group[name], (found["flags"][name] & LEFT > 0), len(starts)).astype(np.int64)
    pinned = take_rows(names, found["where"][name[held[group[name]]]], ["repository"])
    side = side_path(output, PINNED)
    digest = write_atomic(side, lambda to: write_columns(to, pinned))
    hashes = {at: _hex(found[starts[at]], _SENT_HASH) for at in np.flatnonzero(~held & (left > 0))}
    candidates = []
    for at in sorted(hashes, key=hashes.__getitem__)[:minimum]:
        members = name[group[name] == at]
        found_names = take_rows(names, found["where"][members], ["repository"])["repository"].to_pylist()
        candidates.append([hashes[at], int(left[at]), found_names])
    return {
        **written,
        "left": int(left.sum()),
        "held": int(left[held].sum()),
        "candidates": candidates,
        "files": {side.name: asdict(digest)},
    }
