"""What an export will write, and with how much memory, before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from megatron_seed.checkpoint.layout import resolve
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.load import load_recipe, shipped_recipes
from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import Architecture, architecture_of
from megatron_seed.hf.mapping import Shape
from megatron_seed.hf.shards import header_bytes
from megatron_seed.hf.slices import DTYPES, Dtype, Source, check_tensors, checkpoint_dtype, hf_sources

SHARD_BYTES = 4 * 10**9
BLOCK_BYTES = 2 * 2**20
"""What is read, digested and written before it leaves a core's cache; more takes half as long again."""
_LIBRARIES_BYTES = 10**9


@dataclass(frozen=True)
class ExportPlan:
    """The tensors of an export and the files they go to."""

    architecture: Architecture
    config: ModelConfig
    dtype: torch.dtype
    sources: Mapping[str, Source]
    files: Mapping[str, tuple[str, ...]]
    """Safetensors files, and the names of their tensors in order."""

    @property
    def shards(self) -> dict[str, dict[str, Shape]]:
        return {file: {name: self.sources[name].shape for name in names} for file, names in self.files.items()}

    @property
    def parameters(self) -> int:
        return sum(source.elements for source in self.sources.values())

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            file: header_bytes(tensors, self.dtype) + sum(map(math.prod, tensors.values())) * self.dtype.itemsize
            for file, tensors in self.shards.items()
        }

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())

    def memory_bytes(self, workers: int, block_bytes: int = BLOCK_BYTES) -> int:
        """Upper bound on the memory of an export: that of the libraries, and for each thread two copies of a block in
        each of both dtypes and a row that may be larger than a block."""
        longest = max(math.prod(source.shape[1:]) for source in self.sources.values())
        block = max(block_bytes, longest * torch.float32.itemsize)
        return _LIBRARIES_BYTES + min(workers, len(self.files)) * 4 * block

    def describe(self, workers: int) -> str:
        """Lines of files, bytes and memory."""
        lines = [f"{file}  {size:,} bytes, {len(self.files[file])} tensors" for file, size in self.sizes.items()]
        total = f"{self.architecture.name}, {self.parameters:,} parameters as {str(self.dtype).removeprefix('torch.')}"
        memory = f"memory: below {self.memory_bytes(workers) / 1e9:.1f} GB with {workers} workers"
        return "\n".join([*lines, f"{total}: {len(self.files)} files, {self.size_bytes:,} bytes", memory])


def plan_export(config: ModelConfig, dtype: torch.dtype, max_shard_size_bytes: int = SHARD_BYTES) -> ExportPlan:
    """Share the tensors out to files. SeedError for a model that no architecture here has."""
    if max_shard_size_bytes <= 0:
        raise SeedError(f"max_shard_size_bytes {max_shard_size_bytes} is not positive")
    architecture = architecture_of(config)
    sources = hf_sources(architecture.rows(config), config)
    split = split_state_dict_into_shards_factory(
        dict(sources),
        get_storage_size=lambda source: source.elements * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size_bytes,
    )
    files = {file: tuple(names) for file, names in split.filename_to_tensors.items()}
    return ExportPlan(architecture, config, dtype, MappingProxyType(sources), MappingProxyType(files))


def plan_checkpoint(
    reader: CheckpointReader, config: ModelConfig, dtype: Dtype | None, max_shard_size_bytes: int
) -> ExportPlan:
    """As plan_export, of a checkpoint that must hold just the tensors of its config; `dtype` None keeps theirs."""
    rows = architecture_of(config).rows(config)
    check_tensors(reader, rows, config)
    return plan_export(config, DTYPES[dtype] if dtype else checkpoint_dtype(reader, rows), max_shard_size_bytes)


def plan_named(what: str, dtype: Dtype | None = None, max_shard_size_bytes: int = SHARD_BYTES) -> ExportPlan:
    """Of a checkpoint or run folder, a recipe file, a shipped recipe's name, or a preset's name.

    Raises SeedError when it is none of these.
    """
    path = Path(what)
    if path.is_dir():
        checkpoint = resolve(path)
        reader = CheckpointReader(checkpoint)
        return plan_checkpoint(reader, read_model_config(checkpoint), dtype, max_shard_size_bytes)
    if what in PRESETS:
        return plan_export(ModelConfig(**PRESETS[what]), DTYPES[dtype or "bf16"], max_shard_size_bytes)
    if path.is_file() or what in shipped_recipes():
        recipe = load_recipe(what)
        return plan_export(recipe.model, DTYPES[dtype or recipe.precision], max_shard_size_bytes)
    named = ", ".join([*shipped_recipes(), *PRESETS])
    raise SeedError(f"{what}: neither a checkpoint nor a recipe nor one of {named}")
