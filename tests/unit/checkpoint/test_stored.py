"""Boxes are read out of what torch saved as torch reads them, and no more is read than they take."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_seed.checkpoint.stored import find_numbers

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def saved(thing: object) -> bytes:
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BinaryIO]:
    with (tmp_path_factory.mktemp("stored") / "file").open("w+b", buffering=0) as file:
        yield file


def put(file: BinaryIO, data: bytes, start: int) -> None:
    """Write data with something else before and after it."""
    file.seek(0)
    file.truncate()
    file.write(b"x" * start + data + b"y" * 100)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[torch.Tensor, list[int], list[int]]:
    """A tensor, perhaps a view of a larger one, and a box of it."""
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    tensor = torch.randint(0, 256, [2 * size for size in shape]).to(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()):
        tensor = tensor.movedim(-1, 0) if shape else tensor
        shape = list(tensor.shape) if draw(st.booleans()) else shape
    for axis, size in enumerate(shape):
        size = min(size, tensor.shape[axis])
        tensor = tensor.narrow(axis, draw(st.integers(0, tensor.shape[axis] - size)), size)
    offsets = [draw(st.integers(0, size)) for size in tensor.shape]
    sizes = [draw(st.integers(0, size - offset)) for size, offset in zip(tensor.shape, offsets, strict=True)]
    return tensor, offsets, sizes


# One element of which the strides say nothing.
@example(case=(torch.tensor([[254.0, 1.0]]).movedim(-1, 0).narrow(0, 0, 1), [0, 0], [1, 1]), start=0, strided=False)
@given(boxes(), st.integers(0, 200), st.booleans())
def test_any_box_of_any_tensor(file: BinaryIO, case: tuple, start: int, strided: bool) -> None:
    tensor, offsets, sizes = case
    data = saved(tensor)
    put(file, data, start)
    numbers = find_numbers(file, start, len(data))
    assert (numbers.shape, numbers.dtype) == (tuple(tensor.shape), tensor.dtype)
    index = tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    target = (
        torch.empty([2, *sizes], dtype=tensor.dtype).movedim(0, -1)[..., 1]
        if strided
        else torch.empty_like(tensor[index])
    )
    numbers.read(file, offsets, target)
    assert torch.equal(target, tensor[index])


def test_only_what_the_box_spans_is_read(file: BinaryIO, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(100, 50)
    data = saved(tensor)
    put(file, data, 0)
    numbers = find_numbers(file, 0, len(data))
    counts = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: counts.append(preadv(*arguments)) or counts[-1])
    target = torch.empty(2, 50)
    numbers.read(file, (7, 0), target)
    assert torch.equal(target, tensor[7:9])
    assert sum(counts) == 2 * 50 * 4


class Code:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/never",)


def packed() -> bytes:
    """A tensor of torch's, in a zip that somebody else packed."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(torch.ones(1000)))) as plain,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"neither",
        saved(torch.ones(1000))[:-30],
        saved([torch.ones(3)]),
        saved({"a": 1}),
        saved(torch.ones(3).to_sparse()),
        saved(torch.nn.Parameter(torch.ones(3))),
        saved(torch.ones(3, dtype=torch.complex64)),
        saved(Code()),
        packed(),
    ],
    ids=["empty", "no zip", "cut short", "list", "mapping", "sparse", "parameter", "complex", "code", "packed"],
)
def test_anything_else_is_left_to_torch(file: BinaryIO, data: bytes) -> None:
    put(file, data, 10)
    assert find_numbers(file, 10, len(data)) is None


def test_a_file_that_shrank_is_noticed(tmp_path: Path) -> None:
    data = saved(torch.ones(1000))
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("r+b", buffering=0) as file:
        numbers = find_numbers(file, 0, len(data))
        file.truncate(2000)
        with pytest.raises(EOFError, match="ends at byte 2000"):
            numbers.read(file, (0,), torch.empty(1000))
