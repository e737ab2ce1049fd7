"""Write a torch_dist checkpoint from tensors that are made one at a time: no process group, no model."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, SavePlan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from megatron_seed.hf.mapping import Shape


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
) -> None:
    """Write `.metadata`, `.distcp`, `common.pt` and `metadata.json`, which megatron-core loads at any layout.

    `make(part)` gives the part's tensor of `sizes`; each is asked for once, just before it is written. `objects` are
    megatron-core's sharded objects by unique key.
    """
    planner = _StreamingPlanner(parts, dtype, make, objects)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save({}, storage_writer=_Writer(directory), planner=planner, no_dist=True)
    torch.save({}, directory / "common.pt")
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    common = {"common_backend": "torch", "common_backend_version": 1}
    (directory / "metadata.json").write_text(json.dumps(backends | common), encoding="utf-8")


class _Writer(FileSystemWriter):
    def storage_meta(self) -> None:
        """Nothing: it would record the temporary directory."""
        return None


class _StreamingPlanner(DefaultSavePlanner):
    def __init__(
        self,
        parts: Sequence[Part],
        dtype: torch.dtype,
        make: Callable[[Part], torch.Tensor],
        objects: Mapping[str, Any],
    ) -> None:
        super().__init__(flatten_state_dict=False)
        self.parts = {(part.key, part.offsets): part for part in parts}
        self.dtype = dtype
        self.make = make
        self.objects = objects

    def create_local_plan(self) -> SavePlan:
        tensors = [self._write_item(part) for part in self.parts.values()]
        objects = [WriteItem(index=MetadataIndex(key), type=WriteItemType.BYTE_IO) for key in self.objects]
        self.plan = SavePlan([*tensors, *objects])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        index = write_item.index
        if write_item.type == WriteItemType.BYTE_IO:
            stream = io.BytesIO()
            torch.save(self.objects[index.fqn], stream)
            return stream
        return self.make(self.parts[index.fqn, tuple(index.offset)])

    def _write_item(self, part: Part) -> WriteItem:
        data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=torch.Size(part.offsets), sizes=torch.Size(part.sizes)),
            properties=TensorProperties(dtype=self.dtype),
            size=torch.Size(part.shape),
        )
        return WriteItem(index=MetadataIndex(part.key, part.offsets), type=WriteItemType.SHARD, tensor_data=data)
