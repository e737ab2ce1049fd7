"""Megatron's indexed dataset on disk: `.bin` holds the tokens, `.idx` says where each sequence is.

The format is that of megatron-core (`megatron/core/datasets/indexed_dataset.py`, MMIDIDX version 1). Here one sequence
is one document. Written as a stream, so that memory does not grow with the number of documents.
"""

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
CHUNK = 1 << 20
MANIFEST = "megatron_seed.build/1"
"""Format of the manifest beside a build, `PREFIX.manifest.json`, as its `format` says."""


def write_index(
    stream: BinaryIO, dtype: np.dtype, num_documents: int, lengths: Callable[[], Iterator[np.ndarray]]
) -> None:
    """Writes an `.idx`. `dtype` is that of the tokens: uint16 or int32.

    `lengths()` gives the documents' lengths in tokens, in order, some at a time; it is called twice.
    """
    stream.write(MAGIC)
    stream.write(struct.pack("<QBQQ", VERSION, DTYPE_CODES[np.dtype(dtype)], num_documents, num_documents + 1))
    for some in lengths():
        stream.write(some.astype("<i4").tobytes())
    offset = 0
    for some in lengths():
        ends = offset + np.cumsum(some, dtype=np.int64) * np.dtype(dtype).itemsize
        stream.write(np.concatenate(([offset], ends[:-1])).astype("<i8").tobytes() if len(some) else b"")
        offset = int(ends[-1]) if len(some) else offset
    for start in range(0, num_documents + 1, CHUNK):
        stream.write(np.arange(start, min(start + CHUNK, num_documents + 1), dtype="<i8").tobytes())


def write_numbers(stream: BinaryIO, count: int, numbers: Iterator[np.ndarray]) -> None:
    """Writes an `.npy` of `count` int32 numbers, which come some at a time: one for each document of an `.idx`."""
    header = {"descr": "<i4", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(stream, header)
    for some in numbers:
        stream.write(some.astype("<i4").tobytes())
