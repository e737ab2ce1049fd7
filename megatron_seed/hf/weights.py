"""The tensors of a Hugging Face directory: one safetensors file, or several with an index. Pickles are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open

from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import Shape

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class HfWeights:
    """Tensors by name; `shapes` tells what is there without reading it. Raises SeedError for damaged files."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.shapes: Mapping[str, Shape]
        self._files: dict[str, str] = {}
        shapes: dict[str, Shape] = {}
        for file in _weight_files(self.directory):
            with self._open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118, safetensors' file is not a mapping
                    if name in shapes:
                        raise SeedError(f"{self.directory}: {name} is both in {self._files[name]} and in {file}")
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
                    self._files[name] = file
        self.shapes = MappingProxyType(shapes)

    def read(self, name: str) -> torch.Tensor:
        with self._open(self._files[name]) as tensors:
            return tensors.get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor, without reading more than one element."""
        with self._open(self._files[name]) as tensors:
            rank = len(self.shapes[name])
            return tensors.get_slice(name)[(slice(0, 1),) * rank].dtype if rank else tensors.get_tensor(name).dtype

    def _open(self, file: str) -> safe_open:
        path = self.directory / file
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise SeedError(f"{path}: cannot read it as safetensors: {error}") from error


def _weight_files(directory: Path) -> list[str]:
    if not directory.is_dir():
        raise SeedError(f"{directory}: no such directory")
    if (directory / _INDEX).is_file():
        return _indexed_files(directory / _INDEX)
    if (directory / _SINGLE).is_file():
        return [_SINGLE]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        raise SeedError(
            f"{directory}: weights are pickles ({', '.join(pickles)}), which can run code when read; "
            "convert them to safetensors first"
        )
    raise SeedError(f"{directory}: neither {_SINGLE} nor {_INDEX} in it")


def _indexed_files(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeedError(f"{index}: not an index with a weight_map") from error
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise SeedError(f"{index}: names files outside of the directory: {', '.join(outside)}")
    return files
