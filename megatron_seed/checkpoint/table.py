"""`.metadata`, the table of contents of a torch_dist checkpoint: where each box of each tensor lies."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.manifest import Entry
from megatron_seed.errors import SeedError

Shape = tuple[int, ...]


class Record(NamedTuple):
    """Where something lies: a box of a tensor, or (shape None) an object."""

    key: str
    shape: Shape | None
    dtype: torch.dtype | None
    offsets: Shape
    sizes: Shape
    file: str
    start: int
    length: int


def write_table(folder: Path, records: Iterable[Record]) -> dict[str, Entry]:
    """Write `.metadata`, which tells where everything lies."""
    return {".metadata": manifest.write_bytes(folder / ".metadata", pickle.dumps(_table(records)))}


def _table(records: Iterable[Record]) -> Metadata:
    """Raises SeedError when a tensor is not written whole, and once."""
    entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    left: dict[str, int] = {}
    for record in records:
        index = MetadataIndex(record.key, None if record.shape is None else torch.Size(record.offsets))
        if index in places:
            raise SeedError(f"{record.key} at {list(record.offsets)} was written twice")
        places[index] = _StorageInfo(record.file, record.start, record.length)
        if record.shape is None:
            entries[record.key] = BytesStorageMetadata()
            continue
        properties = TensorProperties(dtype=record.dtype)
        entry = entries.setdefault(record.key, TensorStorageMetadata(properties, torch.Size(record.shape), []))
        entry.chunks.append(ChunkStorageMetadata(torch.Size(record.offsets), torch.Size(record.sizes)))
        left[record.key] = left.get(record.key, entry.size.numel()) - torch.Size(record.sizes).numel()
    partly = [key for key, elements in left.items() if elements]
    if partly:
        raise SeedError(f"not written whole: {', '.join(partly[:3])}; {left[partly[0]]} elements are missing")
    return Metadata(entries, storage_data=places)
