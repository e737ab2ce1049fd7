"""Running out of memory: one line that says where, and a file that says what filled it."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_seed.errors import SeedError
from megatron_seed.runtime import device

_LISTED_TENSORS = 100


@contextlib.contextmanager
def memory_told(run_dir: Path, rank: int) -> Iterator[None]:
    """Inside, running out of memory raises a SeedError that names a snapshot in the run folder's `memory/`.

    On a GPU that is a file for https://pytorch.org/memory_viz, on a CPU a list of the largest tensors as JSON.
    """
    if device.has_gpu():
        torch.cuda.memory._record_memory_history(enabled="state", stacks="python")
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error):
            raise
        snapshot = _write_snapshot(run_dir / "memory", rank)
        what = str(error).partition("\n")[0] or type(error).__name__
        raise SeedError(
            f"out of memory on rank {rank} ({what}); {snapshot}; "
            "lower micro_batch_size or sequence_length, or turn on layout.recompute or loss_chunk_tokens, or share the "
            "model among more processes"
        ) from error
    finally:
        if device.has_gpu():
            torch.cuda.memory._record_memory_history(enabled=None)


def _ran_out(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _write_snapshot(folder: Path, rank: int) -> str:
    """What was written, or why nothing was; there may be no memory for this either."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if device.has_gpu():
            path = folder / f"rank-{rank}.pickle"
            torch.cuda.memory._dump_snapshot(str(path))
        else:
            path = folder / f"rank-{rank}.json"
            path.write_text(json.dumps(largest_tensors(), indent=1), encoding="utf-8")
    except Exception as error:
        return f"no snapshot could be written: {type(error).__name__} {error}"
    return f"snapshot: {path}"


def largest_tensors() -> dict[str, Any]:
    """Peak memory of this process, and its tensors by size; those that share a storage count once."""
    seen: dict[int, dict[str, Any]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = {
                "size_bytes": storage.nbytes(),
                "shape": list(thing.shape),
                "dtype": str(thing.dtype),
                "parameter": isinstance(thing, torch.nn.Parameter),
            }
    largest = sorted(seen.values(), key=lambda tensor: -tensor["size_bytes"])
    return {
        "peak_memory_bytes": device.peak_memory_bytes(),
        "tensors": len(largest),
        "tensor_bytes": sum(tensor["size_bytes"] for tensor in largest),
        "largest": largest[:_LISTED_TENSORS],
    }
