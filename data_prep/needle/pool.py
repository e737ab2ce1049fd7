"""The code that contexts are drawn from: files of one side of a selection, those with the smallest hashes of a seed."""

import hashlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.documents import list_shards, read_rows
from data_prep.errors import DataError
from data_prep.needle.settings import NeedleSettings
from data_prep.needle.templates import TEMPLATES
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.redaction import redact
from data_prep.selection.places import selection_shard
from data_prep.storage import read_parquet

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "repository", "path", "language", "text")])
_ABOUT = ["id", "language", "size_bytes"]


class Place(NamedTuple):
    """Orders files by their hash, the largest first."""

    rank: int
    shard: int
    row: int
    size_bytes: int


class Smallest:
    """The files with the smallest hashes that have `most_bytes` together, in whatever order they come; one at least."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Place] = []  # a heap, largest hash first
        self._size_bytes = 0
        self._full: Place | None = None  # the smallest hash that there was no room for: none behind it is taken

    def add(self, place: Place) -> None:
        if self._full is not None and place < self._full:
            return
        heapq.heappush(self._kept, place)
        self._size_bytes += place.size_bytes
        while self._size_bytes > self._most_bytes and len(self._kept) > 1:
            self._full = heapq.heappop(self._kept)
            self._size_bytes -= self._full.size_bytes

    def places(self) -> list[Place]:
        """Smallest hash first."""
        return sorted(self._kept, reverse=True)


def write_pool(stream: BinaryIO, corpus: Path, selection: str, settings: NeedleSettings) -> dict[str, Any]:
    """Shard function: writes the files of the pool, in the order of their hashes.

    What is held in memory is bounded by `settings.pool_bytes`, whatever the size of the corpus. Raises `DataError`
    where no file is left.
    """
    shards = list_shards(corpus)
    places = _smallest(corpus, selection, shards, settings)
    rows = list(_read(corpus, selection, shards, places, settings))
    if not rows:
        known = ", ".join(settings.languages or TEMPLATES)
        raise DataError(
            f"{corpus}: the {settings.split} side of selection {selection!r} has no file of {settings.min_file_bytes} "
            f"to {settings.max_file_bytes} bytes, with lines of at most {settings.max_line_characters} characters, in "
            f"{known}"
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), stream, compression="zstd")
    return {"rows": len(rows), "text_bytes": sum(len(row["text"].encode()) for row in rows)}


def _smallest(corpus: Path, selection: str, shards: list[Path], settings: NeedleSettings) -> list[Place]:
    """The files with the smallest hashes, as many as there is room for."""
    languages = pa.array(settings.languages or list(TEMPLATES))
    kept = Smallest(settings.pool_bytes)
    for number, shard in enumerate(shards):
        about = read_parquet(shard, _ABOUT, use_threads=False)
        path = selection_shard(corpus, selection, shard)
        chosen = read_parquet(path, ["id", "split"], use_threads=False)
        if not about["id"].equals(chosen["id"].cast(about["id"].type)):
            raise DataError(f"{path} has not the rows of {shard}; run `data select` again")
        fits = pc.and_(
            pc.and_(pc.equal(chosen["split"], settings.split), pc.is_in(about["language"], languages)),
            pc.and_(
                pc.greater_equal(about["size_bytes"], settings.min_file_bytes),
                pc.less_equal(about["size_bytes"], settings.max_file_bytes),
            ),
        )
        rows = np.flatnonzero(pc.fill_null(fits, False).to_numpy(zero_copy_only=False))
        found = about.take(pa.array(rows))
        for row, name, size in zip(
            rows.tolist(), found["id"].to_pylist(), found["size_bytes"].to_pylist(), strict=True
        ):
            kept.add(Place(-rank(settings.seed, name), number, row, size))
    return kept.places()


def _read(
    corpus: Path, selection: str, shards: list[Path], places: list[Place], settings: NeedleSettings
) -> Iterator[dict[str, Any]]:
    """The files at some places, redacted, in their order; those with lines that are too long are left out."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for number in sorted({place.shard for place in places}):
        wanted = np.sort([place.row for place in places if place.shard == number])
        chosen = read_parquet(selection_shard(corpus, selection, shards[number]), use_threads=False)
        spans = chosen[REDACTIONS] if REDACTIONS in chosen.column_names else None
        for rows, table in read_rows(shards[number], wanted, SCHEMA.names):
            for row, document in zip(rows.tolist(), table.to_pylist(), strict=True):
                document["text"] = redact(document["text"], spans[row].as_py() if spans is not None else None)
                found[number, row] = document
    for place in places:
        document = found[place.shard, place.row]
        if max(map(len, document["text"].split("\n"))) <= settings.max_line_characters:
            yield document


def rank(*key: object) -> int:
    """64 bits that follow from a key."""
    text = "\0".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
