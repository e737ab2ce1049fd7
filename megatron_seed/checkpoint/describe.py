"""What is in a checkpoint, for a person; nothing of it is executed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from megatron_seed.checkpoint.reader import CheckpointReader, TensorInfo, read_state


def describe(checkpoint: Path) -> Iterator[str]:
    """Lines: where the run stood, versions, every tensor as it is whatever the layout, totals."""
    reader, state = CheckpointReader(checkpoint), read_state(checkpoint)
    yield str(checkpoint)
    for name in ("step", "consumed_tokens", "phase", "phase_tokens", "parent"):
        if state.get(name) not in (None, ""):
            yield f"{name.replace('_', ' '):16} {_number(state[name])}"
    for package, version in state.get("versions", {}).items():
        yield f"{package:16} {version}"
    groups = {
        "parameters": reader.tensors,
        "optimizer state": reader.optimizer_tensors,
        "generators": reader.generators,
    }
    width = max((len(key) for tensors in groups.values() for key in tensors), default=0)
    for tensors in groups.values():
        yield ""
        for key, info in sorted(tensors.items()):
            yield f"{key:{width}}  {_shape(info):24} {_dtype(info):9} {_bytes(info):>18,}"
    yield ""
    for name, tensors in groups.items():
        elements = sum(math.prod(info.shape) for info in tensors.values())
        size = sum(map(_bytes, tensors.values()))
        yield f"{name:16} {len(tensors):4} tensors {elements:>18,} elements {size:>18,} bytes"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shape(info: TensorInfo) -> str:
    return " x ".join(map(str, info.shape))


def _dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")


def _bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize
