"""A checkpoint's parameters as Hugging Face tensors, one checkpoint slice in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def hf_tensors(
    reader: CheckpointReader, rows: Sequence[Row], config: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor of its own memory) of every Hugging Face tensor, in the order of `hf_shapes`."""
    for row, layer in places(rows, config):
        if layer is None:
            shape = row.shape(config)  # leaves padded vocabulary rows out
            tensor = reader.read_slice(row.megatron, (0,) * len(shape), shape)
        else:
            tensor = reader.read_layer(row.megatron, layer)
        for name, part in zip(row.hf_names(layer), row.transform.split(tensor, config), strict=True):
            yield name, convert(part, dtype, name)


def hf_shapes(rows: Sequence[Row], config: ModelConfig) -> dict[str, Shape]:
    """Shape of every Hugging Face tensor by name."""
    shapes = {row.megatron: row.hf_shapes(config) for row in rows}
    return {
        name: shape
        for row, layer in places(rows, config)
        for name, shape in zip(row.hf_names(layer), shapes[row.megatron], strict=True)
    }


def convert(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A contiguous copy in another dtype; SeedError when finite values would become infinite."""
    converted = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    narrower = torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
    if narrower and not bool(torch.equal(tensor.isfinite(), converted.isfinite())):
        raise SeedError(f"{name}: values up to {tensor.abs().max():.3g} do not fit {dtype}; export as bf16 or fp32")
    return converted


def tracked(items: Iterable[Item], total: int, what: str, progress: Progress | None) -> Iterator[Item]:
    """The same items, with a task of their own on the progress display, if there is one."""
    return iter(items) if progress is None else progress.track(items, total=total, description=what)
