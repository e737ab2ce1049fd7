"""The tensors of a Hugging Face directory: one safetensors file, or several with an index; pickles where allowed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open

from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import Shape

_NUMBERS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"


class HfWeights:
    """Tensors by name; `shapes` and `dtypes` tell what is there without reading it.

    Pickles are refused unless `allow_pickle`; then only tensors are built from them. SeedError for damaged files and
    for quantized tensors, which without their scales are not the model's numbers.
    """

    def __init__(self, directory: Path, allow_pickle: bool = False) -> None:
        self.directory = Path(directory)
        self._files: dict[str, _Safe | _Pickled] = {}
        shapes: dict[str, Shape] = {}
        dtypes: dict[str, torch.dtype] = {}
        for path in _weight_files(self.directory, allow_pickle):
            file = _Safe(path) if path.suffix == ".safetensors" else _Pickled(path)
            for name, (shape, dtype) in file.infos().items():
                if dtype not in _NUMBERS.values():
                    raise SeedError(f"{path}: {name} is {dtype}, not plain numbers: give the unquantized model")
                if name in shapes:
                    both = f"{self._files[name].path.name} and in {path.name}"
                    raise SeedError(f"{self.directory}: {name} is both in {both}")
                shapes[name], dtypes[name], self._files[name] = shape, dtype, file
        self.shapes: Mapping[str, Shape] = MappingProxyType(shapes)
        self.dtypes: Mapping[str, torch.dtype] = MappingProxyType(dtypes)

    def read(self, name: str) -> torch.Tensor:
        """A tensor, whole."""
        return self._files[name].read(name)


class _Safe:
    def __init__(self, path: Path) -> None:
        self.path = path

    def infos(self) -> dict[str, tuple[Shape, torch.dtype | str]]:
        """Shapes and dtypes; of a dtype that is not plain numbers, its name."""
        with self._open() as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118, not a mapping
            said = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        return {name: (shape, _NUMBERS.get(dtype, dtype)) for name, (shape, dtype) in said.items()}

    def read(self, name: str) -> torch.Tensor:
        with self._open() as tensors:
            return tensors.get_tensor(name)

    def _open(self) -> safe_open:
        try:
            return safe_open(self.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise SeedError(f"{self.path}: cannot read it as safetensors: {error}") from error


class _Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Files from before torch 1.6 are no zip archives, and are read whole.
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise SeedError(f"{path}: refused: damaged, or holds code or objects, not tensors alone") from error
        except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SeedError(f"{path}: cannot read it as tensors alone: {first}") from error
        if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise SeedError(f"{path}: holds something else than tensors by name")
        self._tensors: dict[str, torch.Tensor] = tensors

    def infos(self) -> dict[str, tuple[Shape, torch.dtype]]:
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _weight_files(directory: Path, allow_pickle: bool) -> list[Path]:
    if not directory.is_dir():
        raise SeedError(f"{directory}: no such directory")
    found = _files_named(directory, _SAFE) or (_files_named(directory, _PICKLED) if allow_pickle else [])
    if found:
        missing = [path.name for path in found if not path.is_file()]
        if missing:
            raise SeedError(f"{directory}: {', '.join(missing)} missing, though the index names it")
        return found
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles and not allow_pickle:
        raise SeedError(
            f"{directory}: weights are pickles ({', '.join(pickles)}), made to run code when read; convert them to "
            "safetensors, or have `hf import --allow-pickle` read the tensors alone"
        )
    expected = f"{_SAFE} nor {_SAFE}.index.json" + (f" nor {_PICKLED}" if allow_pickle else "")
    raise SeedError(f"{directory}: neither {expected} in it")


def _files_named(directory: Path, name: str) -> list[Path]:
    index = directory / f"{name}.index.json"
    if index.is_file():
        files = _indexed_files(index)
        if (directory / name).is_file() and directory / name not in files:
            raise SeedError(f"{directory}: both {name} and {index.name} are there: remove what is not the model")
        return files
    return [directory / name] if (directory / name).is_file() else []


def _indexed_files(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeedError(f"{index}: not an index with a weight_map") from error
    if not files:
        raise SeedError(f"{index}: its weight_map is empty")
    outside = [str(file) for file in files if not isinstance(file, str) or not file or Path(file).name != file]
    if outside:
        raise SeedError(f"{index}: names files outside of the directory: {', '.join(outside)}")
    return [index.with_name(file) for file in files]
