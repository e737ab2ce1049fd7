"""Write a torch_dist checkpoint from tensors that are made one at a time: no process group, no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_seed.checkpoint.digesting import DigestingFile, Entry
from megatron_seed.checkpoint.table import Record, write_table
from megatron_seed.hf.mapping import Shape

_TENSORS = "__0_0.distcp"


@dataclass(frozen=True)
class Part:
    """A chunk of a global tensor."""

    key: str
    shape: Shape
    """Of the global tensor."""
    offsets: Shape
    sizes: Shape


def write_torch_dist(
    directory: Path,
    parts: Sequence[Part],
    dtype: torch.dtype,
    make: Callable[[Part], torch.Tensor],
    objects: Mapping[str, Any],
) -> dict[str, Entry]:
    """Write `.metadata`, `.distcp`, `common.pt` and `metadata.json`, which megatron-core loads at any layout.

    `make(part)` gives the part's tensor of `sizes`, in a storage of its own; each is asked for once, just before it is
    written. `objects` are megatron-core's sharded objects by unique key. Returns the files' sizes and digests.
    """
    records = []
    with DigestingFile(directory / _TENSORS) as file:
        for part in parts:
            begin = file.tell()
            torch.save(make(part), file)
            length = file.tell() - begin
            records.append(Record(part.key, part.shape, dtype, part.offsets, part.sizes, _TENSORS, begin, length))
        for key, value in objects.items():
            begin = file.tell()
            torch.save(value, file)
            records.append(Record(key, None, None, (), (), _TENSORS, begin, file.tell() - begin))
    with DigestingFile(directory / "common.pt") as common:
        torch.save({}, common)
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    backends |= {"common_backend": "torch", "common_backend_version": 1}
    with DigestingFile(directory / "metadata.json") as metadata:
        metadata.write(json.dumps(backends).encode())
    files = {_TENSORS: file.entry, "common.pt": common.entry, "metadata.json": metadata.entry}
    return files | write_table(directory, records)
