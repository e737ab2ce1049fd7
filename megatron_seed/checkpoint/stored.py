"""Where the numbers lie in the bytes that `torch.save` wrote of a tensor, so that any box of it is read alone.

Format: an uncompressed zip whose `data.pkl` describes the tensor and whose `data/0` holds its storage. Nothing of the
pickle is executed but what it says of the tensor, and whatever is not exactly such a file is left to torch.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import torch

Shape = tuple[int, ...]

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_STORAGES = MappingProxyType(
    {
        "BFloat16Storage": torch.bfloat16,
        "HalfStorage": torch.float16,
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "ByteStorage": torch.uint8,
        "CharStorage": torch.int8,
        "ShortStorage": torch.int16,
        "IntStorage": torch.int32,
        "LongStorage": torch.int64,
        "BoolStorage": torch.bool,
    }
)
_DESCRIPTION_BYTES = 1 << 16
# What reading bytes of any kind as such a file may raise.
_UNREADABLE = (
    zipfile.BadZipFile,
    pickle.PickleError,
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
)


@dataclass(frozen=True)
class Numbers:
    """A tensor's elements in a file."""

    dtype: torch.dtype
    shape: Shape
    strides: Shape
    """In elements."""
    start: int
    """Byte of the file at which element [0, 0, ...] lies."""

    def read(self, file: BinaryIO, offsets: Sequence[int], target: torch.Tensor) -> None:
        """Fill `target` with the box of its shape that starts at `offsets`, reading from its first to its last element.

        Raises EOFError when the file is shorter.
        """
        if not target.numel():
            return
        first = sum(offset * stride for offset, stride in zip(offsets, self.strides, strict=True))
        span = _span(target.shape, self.strides)
        # A box without gaps, in the usual order, goes where it belongs; others are taken out of what they span.
        direct = span == target.numel() and target.is_contiguous() and self._is_ordered(target.shape)
        # Not view(-1): the strides of a box of one element may be any.
        buffer = target.as_strided((span,), (1,)) if direct else torch.empty(span, dtype=self.dtype)
        _read_into(file, memoryview(buffer.view(torch.uint8).numpy()), self.start + first * self.dtype.itemsize)
        if not direct:
            target.copy_(buffer.as_strided(target.shape, self.strides))

    def _is_ordered(self, sizes: Sequence[int]) -> bool:
        strides = [stride for stride, size in zip(self.strides, sizes, strict=True) if size > 1]
        return strides == sorted(strides, reverse=True)


def find_numbers(file: BinaryIO, start: int, length: int) -> Numbers | None:
    """The tensor that `torch.save` wrote to these bytes of a file; None where torch itself should read them."""
    try:
        with zipfile.ZipFile(_Window(file, start, length)) as archive:
            folder = archive.namelist()[0].split("/")[0]
            if _record(archive, f"{folder}/byteorder").decode() != sys.byteorder:
                return None
            tensor = _Description(io.BytesIO(_record(archive, f"{folder}/data.pkl"))).load()
            if not isinstance(tensor, _Tensor):
                return None
            data = archive.getinfo(f"{folder}/data/{tensor.storage.key}")
        begin = _begin_of(file, start, data)
    except _UNREADABLE:
        return None
    item = tensor.storage.dtype.itemsize
    inside = 0 in tensor.shape or tensor.offset + _span(tensor.shape, tensor.strides) <= tensor.storage.elements
    whole = data.file_size == tensor.storage.elements * item and begin + data.file_size <= start + length
    if data.compress_type != zipfile.ZIP_STORED or not inside or not whole:
        return None
    return Numbers(tensor.storage.dtype, tensor.shape, tensor.strides, begin + tensor.offset * item)


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small record; ValueError for one that is not what torch writes."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _DESCRIPTION_BYTES:
        raise ValueError(f"{name} is packed, or too large")
    return archive.read(info)


def _begin_of(file: BinaryIO, start: int, record: zipfile.ZipInfo) -> int:
    """Byte of the file at which a record's content begins, past the header and the padding before it."""
    header = bytearray(_LOCAL_HEADER.size)
    _read_into(file, memoryview(header), start + record.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if magic != b"PK\3\4":
        raise ValueError("no record where the archive says there is one")
    return start + record.header_offset + len(header) + name_length + extra_length


def _span(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a box."""
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def _read_into(file: BinaryIO, target: memoryview, position: int) -> None:
    while target:
        count = os.preadv(file.fileno(), [target], position)
        if count == 0:
            raise EOFError(f"the file ends at byte {position}")
        target, position = target[count:], position + count


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: Shape
    strides: Shape


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """In the place of torch's `_rebuild_tensor_v2`."""
    numbers = (offset, *shape, *strides)
    plain = all(isinstance(number, int) and number >= 0 for number in numbers) and len(shape) == len(strides)
    if not isinstance(storage, _Storage) or not plain or math.prod(shape) > storage.elements:
        raise ValueError("not a plain tensor")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Description(pickle.Unpickler):
    """Reads `data.pkl` of one tensor, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("not a storage")
        return _Storage(dtype, str(key), int(elements))


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._length - self._position))
        data = os.pread(self._file.fileno(), wanted, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
