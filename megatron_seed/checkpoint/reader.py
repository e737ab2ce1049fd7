"""Read tensors out of a torch_dist checkpoint: no process group, no model, no code from the checkpoint executed.

Format: a directory written by torch.distributed.checkpoint's FileSystemWriter through megatron-core. `.metadata` is a
pickle that tells, for each tensor, its global shape, its chunks (offsets, sizes) and where in which `.distcp` file each
chunk lies; a chunk is a tensor as `torch.save` writes it.
"""

from __future__ import annotations

import io
import json
import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import torch
import yaml
from pydantic import ValidationError
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata

from megatron_seed.checkpoint.pickles import BROKEN, first_line, load_plain, read_metadata
from megatron_seed.checkpoint.stored import Numbers, find_numbers
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError

Shape = tuple[int, ...]

OPTIMIZER_PREFIX = "optimizer."
GENERATOR_PREFIX = "generators."


class TensorInfo(NamedTuple):
    """Global shape and dtype of a tensor."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class _Box:
    """An axis-aligned part of a tensor."""

    offsets: Shape
    sizes: Shape

    @property
    def volume(self) -> int:
        return math.prod(self.sizes)

    @property
    def stops(self) -> Shape:
        return tuple(offset + size for offset, size in zip(self.offsets, self.sizes, strict=True))

    def contains(self, other: _Box) -> bool:
        return other.volume == 0 or self.overlap(other) == other

    def overlap(self, other: _Box) -> _Box | None:
        """What both have in common, None if that is nothing."""
        bounds = [
            (max(a, b), min(a + m, b + n))
            for a, m, b, n in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        ]
        if any(stop <= start for start, stop in bounds):
            return None
        return _Box(tuple(start for start, _ in bounds), tuple(stop - start for start, stop in bounds))

    def within(self, outer: _Box) -> tuple[slice, ...]:
        """The index of this box in a tensor that holds `outer`."""
        return tuple(
            slice(offset - base, offset - base + size)
            for offset, base, size in zip(self.offsets, outer.offsets, self.sizes, strict=True)
        )


@dataclass(frozen=True)
class _Chunk:
    """A box of a global tensor, and the bytes that hold it."""

    box: _Box
    file: str
    start: int
    length: int


class _Chunks:
    """A tensor's chunks, found by where they lie along its first dimension."""

    def __init__(self, chunks: Iterable[_Chunk]) -> None:
        self._sorted = sorted(chunks, key=lambda chunk: chunk.box.offsets)
        self._starts = [chunk.box.offsets[:1] for chunk in self._sorted]
        # Of the chunks up to each: where the furthest of them ends.
        self._ends = list(accumulate((chunk.box.stops[:1] for chunk in self._sorted), max))

    def __iter__(self) -> Iterator[_Chunk]:
        return iter(self._sorted)

    def over(self, wanted: _Box) -> Iterator[tuple[_Box, _Chunk]]:
        """Each chunk that has something of a box, and what."""
        first, last = 0, len(self._sorted)
        if wanted.offsets:
            first, last = bisect_right(self._ends, wanted.offsets[:1]), bisect_left(self._starts, wanted.stops[:1])
        for chunk in self._sorted[first:last]:
            part = wanted.overlap(chunk.box)
            if part is not None:
                yield part, chunk


class CheckpointReader:
    """The tensors of one checkpoint, whatever the layout it was written from.

    `tensors` are the model's, `optimizer_tensors` the optimizer's and `generators` the random generators', each a
    mapping from key to TensorInfo; `objects` are the keys of everything else. Several threads may read at once. Raises
    SeedError for what is not a checkpoint, is damaged, or names a class that a checkpoint has no use for.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        metadata = read_metadata(self.path / ".metadata")
        try:
            infos, self._chunks = _index(metadata)
            self._objects = _index_objects(metadata)
            self.whole_shapes: Mapping[str, Shape] = MappingProxyType(_whole_shapes(metadata, infos))
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise SeedError(f"{self.path / '.metadata'}: damaged: {error}") from error
        self._infos = infos
        self.optimizer_tensors = _under(infos, OPTIMIZER_PREFIX)
        self.generators = _under(infos, GENERATOR_PREFIX)
        others = (key for key in infos if key not in self.optimizer_tensors and key not in self.generators)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType({key: infos[key] for key in others})
        self.objects = frozenset(self._objects)
        self._numbers: dict[_Chunk, Numbers | None] = {}
        self._last: tuple[_Chunk, torch.Tensor] | None = None
        self._lock = threading.Lock()

    def has(self, key: str) -> bool:
        """There is a tensor of that key."""
        return key in self._infos

    def info(self, key: str) -> TensorInfo:
        """Shape and dtype of any tensor; SeedError when there is none of that key."""
        info = self._infos.get(key)
        if info is None:
            raise SeedError(f"{self.path}: no tensor {key}; model tensors: {', '.join(sorted(self.tensors))}")
        return info

    def read(self, key: str) -> torch.Tensor:
        """The whole tensor."""
        shape = self.info(key).shape
        return self.read_slice(key, (0,) * len(shape), shape)

    def read_slice(self, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        """The box of `sizes` elements that starts at `offsets`, reading only the chunks that overlap it."""
        result = torch.empty(tuple(sizes), dtype=self.info(key).dtype)
        self.read_into(key, offsets, result)
        return result

    def read_into(self, key: str, offsets: Sequence[int], target: torch.Tensor) -> None:
        """As read_slice, into a contiguous tensor of the box's shape and the tensor's dtype."""
        shape, dtype = self.info(key)
        wanted = _Box(tuple(offsets), tuple(target.shape))
        if len(offsets) != len(shape) or not _Box((0,) * len(shape), shape).contains(wanted):
            raise SeedError(f"{self.path}: {key} has shape {list(shape)}, no {list(wanted.sizes)} at {list(offsets)}")
        parts = list(self._chunks[key].over(wanted))
        self._check_coverage(key, wanted, [part for part, _ in parts])
        for part, chunk in parts:
            self._read_part(key, part, chunk, dtype, target if part == wanted else target[part.within(wanted)])

    def read_object(self, key: str) -> Any:
        """One of `objects`: tensors and plain containers, nothing else is built."""
        chunk = self._objects[key]
        try:
            return load_plain(io.BytesIO(self._bytes(key, chunk)))
        except BROKEN as error:
            raise self._damaged(key, chunk, error) from error

    def _read_part(self, key: str, part: _Box, chunk: _Chunk, dtype: torch.dtype, target: torch.Tensor) -> None:
        path = f"{self.path}/{chunk.file}"
        try:
            with open(path, "rb", buffering=0) as file:
                numbers = self._numbers_of(file, chunk)
                if numbers is not None and (numbers.shape, numbers.dtype) == (chunk.box.sizes, dtype):
                    numbers.read(file, [box.start for box in part.within(chunk.box)], target)
                    return
        except OSError as error:
            raise SeedError(f"{path}: cannot read {key}: {error.strerror}") from error
        except EOFError as error:
            raise self._damaged(key, chunk, error) from error
        with self._lock:  # one whole chunk in memory at a time
            target.copy_(self._read_chunk(key, chunk, dtype)[part.within(chunk.box)])

    def _numbers_of(self, file: BinaryIO, chunk: _Chunk) -> Numbers | None:
        if chunk not in self._numbers:
            self._numbers[chunk] = find_numbers(file, chunk.start, chunk.length)
        return self._numbers[chunk]

    def _read_chunk(self, key: str, chunk: _Chunk, dtype: torch.dtype) -> torch.Tensor:
        # Pieces of one chunk are asked for one after the other.
        if self._last is not None and self._last[0] is chunk:
            return self._last[1]
        data = self._bytes(key, chunk)
        try:
            tensor = load_plain(io.BytesIO(data))
        except BROKEN as error:
            raise self._damaged(key, chunk, error) from error
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != chunk.box.sizes or tensor.dtype != dtype:
            raise SeedError(
                f"{self.path / chunk.file}: damaged: {key} at byte {chunk.start} is not {dtype} of "
                f"{list(chunk.box.sizes)}"
            )
        self._last = chunk, tensor
        return tensor

    def _bytes(self, key: str, chunk: _Chunk) -> bytes:
        path = self.path / chunk.file
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if chunk.start + chunk.length <= size:
                    file.seek(chunk.start)
                    return file.read(chunk.length)
        except OSError as error:
            raise SeedError(f"{path}: cannot read {key}: {error.strerror}") from error
        raise SeedError(
            f"{path}: truncated: {key} needs bytes {chunk.start} to {chunk.start + chunk.length}, the file has {size}"
        )

    def _damaged(self, key: str, chunk: _Chunk, error: Exception) -> SeedError:
        path = self.path / chunk.file
        return SeedError(f"{path}: damaged: {key} at byte {chunk.start}: {first_line(error)}")

    def _check_coverage(self, key: str, wanted: _Box, parts: Sequence[_Box]) -> None:
        if any(one.overlap(other) for one, other in combinations(parts, 2)):
            raise SeedError(f"{self.path}: damaged: chunks of {key} overlap")
        if sum(part.volume for part in parts) != wanted.volume:
            raise SeedError(f"{self.path}: damaged: chunks of {key} leave a part of it out")


def read_model_config(checkpoint: Path | str) -> ModelConfig:
    """The model's shape: from `model.yaml`, or from the `recipe.yaml` of a checkpoint without one."""
    path = Path(checkpoint) / "model.yaml"
    if not path.is_file():
        recipe = path.with_name("recipe.yaml")
        if not recipe.is_file():
            raise SeedError(f"{checkpoint}: neither model.yaml nor recipe.yaml: not a checkpoint of megatron-seed")
        return load_recipe(recipe).model
    try:
        return ModelConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SeedError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SeedError(f"{path}: {'; '.join(problems)}") from error


def read_state(checkpoint: Path | str) -> dict[str, Any]:
    """What `state.json` says of the training so far (step, consumed_tokens, ...), empty when there is none."""
    path = Path(checkpoint) / "state.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SeedError(f"{path}: not a JSON object: {error}") from error


def _under(infos: Mapping[str, TensorInfo], prefix: str) -> Mapping[str, TensorInfo]:
    return MappingProxyType({key: info for key, info in infos.items() if key.startswith(prefix)})


def _whole_shapes(metadata: Metadata, infos: Mapping[str, TensorInfo]) -> dict[str, Shape]:
    """Shapes of tensors that megatron-core before 0.16 stored as a grid of flattened parts."""
    said = {key: data.get("nd_reformulated_orig_global_shape") for key, data in _mcore_data(metadata).items()}
    return {key: tuple(shape) for key, shape in said.items() if shape and tuple(shape) != infos[key].shape}


def _mcore_data(metadata: Metadata) -> Mapping[str, dict[str, Any]]:
    return getattr(metadata, "mcore_data", None) or {}


def _index_objects(metadata: Metadata) -> dict[str, _Chunk]:
    keys = {key for key, entry in metadata.state_dict_metadata.items() if isinstance(entry, BytesStorageMetadata)}
    places = {index.fqn: info for index, info in metadata.storage_data.items() if index.fqn in keys}
    return {key: _chunk(key, (), (), places[key]) for key in keys}


def _index(metadata: Metadata) -> tuple[dict[str, TensorInfo], dict[str, _Chunks]]:
    """Infos and chunks by tensor key. Raises the errors of Python for records that are not what they must be."""
    infos = {
        key: TensorInfo(tuple(entry.size), entry.properties.dtype)
        for key, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    for key, info in infos.items():
        _check_counts(key, info.shape)
        if not isinstance(info.dtype, torch.dtype):
            raise TypeError(f"{key} has the dtype {info.dtype}")
    places = {
        (index.fqn, _origin(index.offset, infos[index.fqn])): info
        for index, info in metadata.storage_data.items()
        if index.fqn in infos
    }
    chunks = {}
    for key in infos:
        boxes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in metadata.state_dict_metadata[key].chunks}
        chunks[key] = _Chunks(_chunk(key, *box, places[key, box[0]]) for box in boxes.items())
    return infos, chunks


def _origin(offset: Sequence[int] | None, info: TensorInfo) -> Shape:
    """Offsets of a stored chunk; a tensor stored whole may have none."""
    return (0,) * len(info.shape) if offset is None else tuple(offset)


def _check_counts(key: str, numbers: Sequence[Any]) -> None:
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{key} has {list(numbers)} among its sizes and places")


def _chunk(key: str, offsets: Shape, sizes: Shape, info: Any) -> _Chunk:
    if getattr(info, "transform_descriptors", None):
        raise ValueError(f"{key} is stored through a transform: {info.transform_descriptors}")
    if Path(info.relative_path).name != info.relative_path or "\0" in info.relative_path:
        raise ValueError(f"{key} is stored outside of the checkpoint: {info.relative_path}")
    _check_counts(key, (*offsets, *sizes, info.offset, info.length))
    if len(offsets) != len(sizes):
        raise ValueError(f"{key} has a chunk of {list(sizes)} at {list(offsets)}")
    return _Chunk(_Box(offsets, sizes), info.relative_path, info.offset, info.length)
