"""What of the documents is compared: whole texts, or targets (see `data_prep.structure`).

Samples of one repository's commits share README, tree and files, so whole texts would make copies of most of them.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.dedup.settings import NearSettings
from data_prep.documents import list_shards, read_rows, shard_batches
from data_prep.errors import DataError
from data_prep.storage import read_parquet
from data_prep.structure import ANNOTATION, structures_of

START = "target_start_bytes"
Targets = Mapping[str, tuple[Path, str]]
"""Name of a documents shard -> the annotation of its targets and its digest; empty where whole texts are compared."""
_BATCH_ROWS = 512


def targets_of(corpus: Path, settings: NearSettings) -> Targets:
    """What is compared of a corpus. Raises `DataError` where targets are asked for and not recorded."""
    if settings.text == "all":
        return {}
    found = structures_of(corpus, list_shards(corpus))
    if settings.text == "target" and not found:
        raise DataError(f"{corpus}: text: target needs the annotation {ANNOTATION}, which `data commits` writes")
    return {name: (path, manifest["sha256"]) for name, (path, manifest) in found.items()}


def batches_of(shard: Path, looked_at: np.ndarray, targets: Path | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows that are looked at after the other: their bytes (uint8), and where each begins and ends."""
    starts, done = _starts(targets), 0
    for batch in shard_batches(shard, ["text"], _BATCH_ROWS):
        chosen = looked_at[done : done + len(batch)]
        own = None if starts is None else starts[done : done + len(batch)][chosen]
        done += len(batch)
        yield _bytes_of(batch["text"].filter(pa.array(chosen)), own)


def texts_at(shard: Path, rows: np.ndarray, targets: Path | None) -> Iterator[np.ndarray]:
    """The bytes (uint8) of some rows, in order; only row groups that hold one are read."""
    starts = _starts(targets)
    for found, documents in read_rows(shard, rows, ["text"]):
        flat, offsets = _bytes_of(documents["text"].combine_chunks(), None if starts is None else starts[found])
        yield from (flat[a:b] for a, b in pairwise(offsets))


def _starts(targets: Path | None) -> np.ndarray | None:
    """Bytes before the target of each row; None for whole texts."""
    return None if targets is None else read_parquet(targets, [START], use_threads=False)[START].to_numpy()


def _bytes_of(texts: pa.StringArray, starts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """All texts as bytes (uint8), from `starts` on, and where each begins and the last ends (int64)."""
    texts = texts.cast(pa.large_string())
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = texts.buffers()
    found = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
    flat = np.frombuffer(data or b"", np.uint8)
    if starts is None:
        return flat, found
    parts = [flat[a + start : b] for (a, b), start in zip(pairwise(found), starts, strict=True)]
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])
