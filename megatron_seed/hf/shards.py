"""Safetensors files written from blocks: no tensor is ever whole in memory, and every byte is digested on its way.

Format: the header's length as 8 bytes, a JSON header of dtypes, shapes and offsets, the tensors one after the other
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType

import torch

from megatron_seed.checkpoint.digesting import DigestingFile, Entry
from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import Shape

_NAMES = MappingProxyType({torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"})
Blocks = Callable[[str], Iterable[torch.Tensor]]


def write_shards(
    folder: Path,
    shards: Mapping[str, Mapping[str, Shape]],
    dtype: torch.dtype,
    blocks: Blocks,
    workers: int,
    written: Callable[[], None] = lambda: None,
) -> dict[str, Entry]:
    """Write files of tensors (file name -> tensor name -> shape), each by one of so many threads.

    `blocks(name)` gives a tensor's rows in order, contiguous and of `dtype`, and is called from these threads;
    `written()` after each tensor. Returns sizes and digests. The first error stops all threads.
    """
    stop = threading.Event()

    def write(file: str) -> Entry:
        with DigestingFile(folder / file) as target:
            target.write(_header(shards[file], dtype))
            for name in shards[file]:
                for block in blocks(name):
                    if stop.is_set():
                        raise SeedError(f"{file} was not finished: another file could not be written")
                    target.write(memoryview(block.view(torch.uint8).numpy()))
                written()
        return target.entry

    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
        files = {pool.submit(write, file): file for file in shards}
        try:
            return {files[future]: future.result() for future in as_completed(files)}
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads that start inside compute alone: torch's own threads would wait for each other at every small block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def header_bytes(tensors: Mapping[str, Shape], dtype: torch.dtype) -> int:
    """Bytes of a file before its tensors."""
    return len(_header(tensors, dtype))


def _header(tensors: Mapping[str, Shape], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in tensors.items():
        end = begin + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
