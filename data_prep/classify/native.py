"""fastText itself: trained in memory that is clean, and loaded only from a file that is sound.

What the library does not do (0.9.2 and 0.10.0): with one thread it fills the first tenth of its weights and leaves the
rest as the heap has them, so that results depend on what ran before, or are NaN; and it reads a model file without
looking at whether the file ends or its parts fit, so that a damaged one takes all memory or crashes the process.
"""

import contextlib
import ctypes
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fasttext
import numpy as np

from data_prep.errors import DataError

LABEL = "__label__"
_M_PERTURB = -6  # of glibc's mallopt: 255 fills what is allocated with zeros
_PROBE_BYTES = 1 << 14
_MAGIC, _VERSION, _SUPERVISED = 793712314, 12, 3
_ARGUMENTS = struct.Struct("<12id")
_COUNTS = struct.Struct("<3i2q")
_SHAPE = struct.Struct("<2q")
_ENTRY_BYTES = 9  # after a word: how often it occurs, and whether it is a label


@contextlib.contextmanager
def clean_memory() -> Iterator[None]:
    """What the C library allocates in this block is zero. Raises `DataError` where that cannot be had."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        raise DataError("classifiers are trained with glibc only: elsewhere fastText's weights begin as rubbish")
    library.mallopt(_M_PERTURB, 255)
    try:
        if not _is_clean(library):
            raise DataError(
                "fastText cannot be given clean memory: the process runs with an allocator other than glibc's "
                "(LD_PRELOAD?); train without it"
            )
        yield
    finally:
        library.mallopt(_M_PERTURB, 0)


def _is_clean(library: Any) -> bool:
    """Whether a block that was just dirty comes back as zeros."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    for _ in range(2):
        block = library.malloc(_PROBE_BYTES)
        clean = not any(ctypes.string_at(block, _PROBE_BYTES))
        ctypes.memset(block, 0xA5, _PROBE_BYTES)
        library.free(block)
    return clean


def train(lines: Path, **arguments: Any) -> Any:
    """A model of a file with a line for each text, `__label__<n> words`. Raises `DataError` where it diverges."""
    try:
        with clean_memory():
            return fasttext.train_supervised(str(lines), verbose=0, label=LABEL, **arguments)
    except RuntimeError as error:  # "Encountered NaN."
        raise DataError(f"fastText gave up ({error}): lower the learning rate") from None
    except MemoryError:
        raise DataError("fastText ran out of memory: fewer buckets, a smaller dim or a higher min_count") from None


@dataclass(frozen=True)
class ModelShape:
    """Of a model file."""

    words: int
    labels: int
    dim: int


def load(path: Path, labels: int) -> Any:
    """The model in a file. Raises `DataError` for one that is not whole and sound, or has other than these labels."""
    shape = check(path)
    if shape.labels != labels:
        raise DataError(f"{path}: a model of {shape.labels} labels, where {labels} are described")
    try:
        return fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path} is no fastText model: {error}") from None


def check(path: Path) -> ModelShape:
    """Reads a model file's structure without fastText. Raises `DataError` for what is no whole supervised model."""
    with open(path, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _check(data)
        except (ValueError, struct.error, IndexError) as error:  # an empty file cannot be mapped
            raise DataError(f"{path} is no whole fastText model: {error}") from None


def _check(data: mmap.mmap) -> ModelShape:
    magic, version = struct.unpack_from("<2i", data, 0)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it does not begin as one")
    dim, *rest = _ARGUMENTS.unpack_from(data, 8)
    word_ngrams, model, buckets, shortest, longest = (rest[place] for place in (4, 6, 7, 8, 9))
    place = 8 + _ARGUMENTS.size
    size, words, labels, _, pruned = _COUNTS.unpack_from(data, place)
    if model != _SUPERVISED or shortest or longest or pruned > 0 or not 0 < dim <= 1 << 16 or word_ngrams < 1:
        raise ValueError("it is none that classifies by words")
    if min(words, labels, buckets) < 0 or words + labels != size or (word_ngrams > 1 and not buckets):
        raise ValueError("its counts do not fit")
    place = _after_entries(data, place + _COUNTS.size, words, labels)
    for rows in (words + buckets, labels):
        quantised, shape = data[place], _SHAPE.unpack_from(data, place + 1)
        if quantised or shape != (rows, dim):
            raise ValueError(f"a matrix is {shape[0]} x {shape[1]}, {rows} x {dim} expected")
        place += 1 + _SHAPE.size + 4 * rows * dim
    if place != len(data):
        raise ValueError(f"it has {len(data)} bytes, {place} expected")
    return ModelShape(words, labels, dim)


def _after_entries(data: mmap.mmap, place: int, words: int, labels: int) -> int:
    """Where the dictionary ends: words first, then labels."""
    for number in range(words + labels):
        end = data.find(b"\0", place)
        if end < 0 or end + _ENTRY_BYTES >= len(data):
            raise ValueError("it ends within its dictionary")
        if data[end + _ENTRY_BYTES] != (number >= words):
            raise ValueError("words and labels are mixed")
        place = end + 1 + _ENTRY_BYTES
    return place


def probabilities(model: Any, lines: Sequence[bytes], labels: int) -> np.ndarray:
    """fp32 [lines, labels]: of label n what fastText says of `__label__n`, 0 where a line has no word it knows."""
    found = np.zeros((len(lines), labels), np.float32)
    all_names, all_values = model.f.multilinePredict([line + b"\n" for line in lines], labels, 0.0, "strict")
    for row, names, values in zip(found, all_names, all_values, strict=True):
        row[[int(name.removeprefix(LABEL)) for name in names]] = values
    if not np.isfinite(found).all():
        raise DataError("the model's weights are not all numbers; train it again")
    return np.minimum(found, 1)  # it adds 1e-5 before it takes the logarithm
