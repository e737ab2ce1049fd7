"""A checkpoint's parameters as Hugging Face tensors, read block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from rich.progress import Progress

from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import Row, Shape, places

Dtype = Literal["bf16", "fp16", "fp32"]
DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Item = TypeVar("Item")
_LARGE = 1 << 26


def check_tensors(reader: CheckpointReader, rows: Sequence[Row], config: ModelConfig) -> None:
    """Raise one SeedError naming every model tensor that is missing, extra or of another shape than the config's."""
    problems = []
    for row in rows:
        expected = checkpoint_shape(row, config)
        if row.megatron not in reader.tensors:
            problems.append(f"{row.megatron} is missing")
        elif reader.info(row.megatron).shape != expected:
            problems.append(f"{row.megatron} is {list(reader.info(row.megatron).shape)}, not {list(expected)}")
    known = {row.megatron for row in rows}
    problems += [f"{key} is not part of this architecture" for key in sorted(reader.tensors) if key not in known]
    if problems:
        raise SeedError(f"{reader.path}: not the model of its config: {'; '.join(problems)}")


def checkpoint_shape(row: Row, config: ModelConfig) -> Shape:
    """Global shape in a checkpoint: the layer axis in front, the vocabulary padded."""
    shape = row.shape(config)
    if row.dims[0] == "vocab":
        shape = (config.padded_vocab_size, *shape[1:])
    return (config.num_layers, *shape) if row.per_layer else shape


def checkpoint_dtype(reader: CheckpointReader, rows: Sequence[Row]) -> torch.dtype:
    """The dtype of all parameters; SeedError when they differ."""
    dtypes = {reader.info(row.megatron).dtype for row in rows}
    if len(dtypes) > 1:
        names = ", ".join(sorted(map(str, dtypes)))
        raise SeedError(f"{reader.path}: parameters of several dtypes ({names}): name the one to write")
    return dtypes.pop()


@dataclass(frozen=True)
class Source:
    """Where a Hugging Face tensor lies in a checkpoint."""

    name: str
    shape: Shape
    """Of the Hugging Face tensor."""
    key: str
    layer: int | None
    runs: tuple[range, ...]
    """Rows of the checkpoint's tensor, without its layer axis, one after the other."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def blocks(self, reader: CheckpointReader, dtype: torch.dtype, block_bytes: int) -> Iterator[torch.Tensor]:
        """Its rows as contiguous tensors of at most so many bytes (or of one row), converted to `dtype`.

        A block may lie in the memory of the one before.
        """
        row, stored = self.shape[1:], reader.info(self.key).dtype
        row_elements = math.prod(row)
        rows_per_block = max(1, block_bytes // (row_elements * stored.itemsize))
        buffer = torch.empty(min(rows_per_block * row_elements, self.elements), dtype=stored)
        place = () if self.layer is None else (self.layer,)
        for run in self.runs:
            for first in run[::rows_per_block]:
                count = min(rows_per_block, run.stop - first)
                block = buffer[: count * row_elements].view(count, *row)
                target = block if self.layer is None else block[None]
                reader.read_into(self.key, (*place, first, *(0 for _ in row)), target)
                yield convert(block, dtype, self.name)

    def read(self, reader: CheckpointReader, dtype: torch.dtype) -> torch.Tensor:
        """The whole tensor."""
        whole, begin = torch.empty(self.shape, dtype=dtype), 0
        for block in self.blocks(reader, dtype, _LARGE):
            whole[begin : begin + len(block)] = block
            begin += len(block)
        return whole


def hf_sources(rows: Sequence[Row], config: ModelConfig) -> dict[str, Source]:
    """Every Hugging Face tensor of a model by name, in the order of `hf_shapes`."""
    parts = {row.megatron: tuple(zip(row.hf_shapes(config), row.runs(config), strict=True)) for row in rows}
    return {
        name: Source(name, shape, row.megatron, layer, runs)
        for row, layer in places(rows, config)
        for name, (shape, runs) in zip(row.hf_names(layer), parts[row.megatron], strict=True)
    }


def hf_shapes(rows: Sequence[Row], config: ModelConfig) -> dict[str, Shape]:
    """Shape of every Hugging Face tensor by name."""
    shapes = {row.megatron: row.hf_shapes(config) for row in rows}
    return {
        name: shape
        for row, layer in places(rows, config)
        for name, shape in zip(row.hf_names(layer), shapes[row.megatron], strict=True)
    }


def convert(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The same values in another dtype, contiguous; SeedError when finite values would become infinite."""
    converted = tensor.to(dtype).contiguous()
    if converted.dtype == tensor.dtype:
        return converted
    narrower = torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
    if narrower and not converted.isfinite().all() and not torch.equal(tensor.isfinite(), converted.isfinite()):
        raise SeedError(f"{name}: values up to {tensor.abs().max():.3g} do not fit {dtype}; export as bf16 or fp32")
    return converted


def tracked(items: Iterable[Item], total: int, what: str, progress: Progress | None) -> Iterator[Item]:
    """The same items, with a task of their own on the progress display, if there is one."""
    return iter(items) if progress is None else progress.track(items, total=total, description=what)
