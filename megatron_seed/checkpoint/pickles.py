"""Reading the pickles of a checkpoint without running them: a fixed list of classes for each kind of file.

A checkpoint holds three kinds: `.metadata`, `common.pt`, and the records of the `.distcp` files. Whatever names
anything else is refused before anything of it is called.
"""

from __future__ import annotations

import argparse
import io
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from megatron_seed.errors import SeedError

_METADATA = "torch.distributed.checkpoint.metadata"
_PLANNER = "torch.distributed.checkpoint.planner"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"
# Everything that a `.metadata` file has reason to name; torch's dtypes are let through by type.
_IN_METADATA = frozenset(
    {
        (_METADATA, "Metadata"),
        (_METADATA, "TensorStorageMetadata"),
        (_METADATA, "BytesStorageMetadata"),
        (_METADATA, "ChunkStorageMetadata"),
        (_METADATA, "TensorProperties"),
        (_METADATA, "_MEM_FORMAT_ENCODING"),
        (_METADATA, "MetadataIndex"),
        (_METADATA, "StorageMeta"),
        (_PLANNER, "SavePlan"),
        (_PLANNER, "WriteItem"),
        (_PLANNER, "WriteItemType"),
        (_PLANNER, "TensorWriteData"),
        (_PLANNER, "BytesIOWriteData"),
        (_FILESYSTEM, "_StorageInfo"),
        (_FILESYSTEM, "_StoragePrefix"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("pathlib", "PosixPath"),
    }
)
# What TransformerEngine keeps of delayed FP8 scaling: tensors and a description of the recipe.
_IN_EXTRA_STATE = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("transformer_engine.common.recipe", "DelayedScaling"),
        ("transformer_engine.common.recipe", "Format"),
        ("transformer_engine.common.recipe", "_FormatHelper"),
    }
)
BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    AttributeError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    ImportError,
    OverflowError,
    MemoryError,
)
"""What reading a damaged pickle raises: its lengths, too, are whatever the bytes say."""


class Opaque:
    """In the place of an object of a library's own class: held, never called."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class _MegatronMetadata(Metadata):
    """megatron-core's before 0.16, with a word on some tensors."""

    mcore_data: dict[str, Any] | None = None


# megatron-core's classes before 0.16, and what stands for them here.
_OLDER = MappingProxyType({"MCoreMetadata": _MegatronMetadata, "MCoreSavePlan": Opaque})


class _Unpickler(pickle.Unpickler):
    """Builds nothing but what is on its list."""

    def __init__(self, data: Any, allowed: Collection[tuple[str, str]]) -> None:
        super().__init__(data)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "megatron.core.dist_checkpointing.strategies.torch" and name in _OLDER:
            return _OLDER[name]
        if (module, name) == ("torch.storage", "_load_from_bytes"):  # itself a torch.load that would run anything
            return lambda data: load_plain(io.BytesIO(data))
        if (module, name) not in self.allowed:
            raise SeedError(f"refused: names {module}.{name}, which a checkpoint has no use for")
        return super().find_class(module, name)


def read_metadata(path: Path) -> Metadata:
    """The table of contents, `.metadata`."""
    if not path.is_file():
        raise SeedError(f"{path.parent}: not a torch_dist checkpoint: no .metadata in it")
    with path.open("rb") as file:
        metadata = _guarded(path, "a checkpoint's metadata", lambda: _Unpickler(file, _IN_METADATA).load())
    if not isinstance(metadata, Metadata):
        raise SeedError(f"{path}: holds {type(metadata).__name__}, not a checkpoint's metadata")
    return metadata


def read_common(path: Path) -> dict[str, Any]:
    """`common.pt`: what is the same on every rank. Objects of Megatron-LM's own classes come as `Opaque`."""
    if not path.is_file():
        raise SeedError(f"{path} is missing")

    def load() -> Any:
        allowed: list[Any] = [argparse.Namespace]
        for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
            if name.startswith("megatron."):
                allowed.append((Opaque, name))
        with torch.serialization.safe_globals(allowed):
            return load_plain(path)

    common = _guarded(path, "a checkpoint's common state", load)
    if not isinstance(common, dict):
        raise SeedError(f"{path}: holds {type(common).__name__}, not a checkpoint's common state")
    return common


def load_plain(data: Path | io.BytesIO) -> Any:
    """torch.load of tensors and plain containers alone."""
    return torch.load(data, map_location="cpu", weights_only=True)


def check_extra_state(where: str, state: Any) -> None:
    """Refuse a module's extra state that holds code: TransformerEngine unpickles it without looking."""
    if state is None or (isinstance(state, torch.Tensor) and state.numel() == 0):
        return
    if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8:
        raise SeedError(f"{where}: refused: extra state of type {type(state).__name__}")
    data = io.BytesIO(state.numpy().tobytes())
    _guarded(where, "extra state", lambda: _Unpickler(data, _IN_EXTRA_STATE).load())


def _guarded(where: Path | str, what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SeedError as error:
        raise SeedError(f"{where}: {error}") from None
    except BROKEN as error:
        raise SeedError(f"{where}: damaged or not {what}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error, or of torch's many lines about a class that it does not let through, that one."""
    marker = "Unsupported global: GLOBAL "
    lines = str(error).splitlines() or [type(error).__name__]
    unknown = next((line for line in lines if marker in line), None)
    return f"refused: names {unknown.split(marker)[1].split()[0]}" if unknown else lines[0]
