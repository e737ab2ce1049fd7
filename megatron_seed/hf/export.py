"""From a torch_dist checkpoint of any layout to a Hugging Face model directory."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from rich.progress import Progress
from safetensors.torch import save_file
from transformers import GenerationConfig

from megatron_seed.checkpoint.manifest import write_manifest
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config, read_state
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import architecture_of, to_hf_config
from megatron_seed.hf.card import model_card
from megatron_seed.hf.mapping import Shape
from megatron_seed.hf.publish import replacing
from megatron_seed.hf.slices import DTYPES, Dtype, check_tensors, checkpoint_dtype, hf_shapes, hf_tensors, tracked
from megatron_seed.hf.special import SpecialIds, read_special_ids

FORMAT = "megatron_seed.hf_export/1"
RECORD = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    out: Path
    architecture: str
    dtype: str
    tensors: int
    parameters: int
    files: tuple[str, ...]
    """The safetensors files."""


def export_hf(
    checkpoint: Path,
    out: Path,
    *,
    dtype: Dtype | None = None,
    max_shard_size_bytes: int = 4 * 2**30,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `out`: safetensors, config.json, generation_config.json, tokenizer files, README.md, export.json.

    Tensors are streamed, one safetensors file in memory at a time. `dtype` None keeps the checkpoint's. Padded
    vocabulary rows are left out. `out` appears whole or not at all; one that exists is replaced only if it is an
    earlier export, or with `force`. Raises SeedError for what is not a checkpoint of ours, a wrong shape or a value
    that does not fit `dtype`.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if max_shard_size_bytes <= 0:
        raise SeedError(f"max_shard_size_bytes {max_shard_size_bytes} is not positive")
    reader, config = CheckpointReader(checkpoint), read_model_config(checkpoint)
    architecture = architecture_of(config)
    rows = architecture.rows(config)
    check_tensors(reader, rows, config)
    target = DTYPES[dtype] if dtype else checkpoint_dtype(reader, rows)
    special = read_special_ids(checkpoint, config)
    shapes = hf_shapes(rows, config)
    with replacing(out, is_export, force) as work:
        tensors = tracked(hf_tensors(reader, rows, config, target), len(shapes), "export tensors", progress)
        report = ExportReport(
            out=out,
            architecture=architecture.name,
            dtype=str(target).removeprefix("torch."),
            tensors=len(shapes),
            parameters=sum(map(math.prod, shapes.values())),
            files=_write_tensors(work, tensors, shapes, target, max_shard_size_bytes),
        )
        _write_configs(work, config, special, target)
        _copy_tokenizer(checkpoint / "tokenizer", work)
        (work / "README.md").write_text(model_card(checkpoint, config, architecture.name), encoding="utf-8")
        _write_record(work, report, checkpoint)
        write_manifest(work)
    return report


def is_export(path: Path) -> bool:
    """The directory is one that `export_hf` wrote."""
    try:
        return json.loads((path / RECORD).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_tensors(
    work: Path,
    tensors: Iterator[tuple[str, torch.Tensor]],
    shapes: Mapping[str, Shape],
    dtype: torch.dtype,
    max_shard_size_bytes: int,
) -> tuple[str, ...]:
    plan = split_state_dict_into_shards_factory(
        dict(shapes),
        get_storage_size=lambda shape: math.prod(shape) * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size_bytes,
    )
    pending: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors:
        file = plan.tensor_to_filename[name]
        pending.setdefault(file, {})[name] = tensor
        if len(pending[file]) == len(plan.filename_to_tensors[file]):
            save_file(pending.pop(file), work / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {
            "metadata": {"total_parameters": sum(map(math.prod, shapes.values())), **plan.metadata},
            "weight_map": dict(sorted(plan.tensor_to_filename.items())),
        }
        _write_json(work / "model.safetensors.index.json", index)
    return tuple(plan.filename_to_tensors)


def _write_configs(work: Path, config: ModelConfig, special: SpecialIds, dtype: torch.dtype) -> None:
    hf_config = to_hf_config(config, special, dtype)
    hf_config.save_pretrained(work)
    GenerationConfig.from_model_config(hf_config).save_pretrained(work)


def _copy_tokenizer(tokenizer: Path, work: Path) -> None:
    if not tokenizer.is_dir():
        return
    for path in sorted(tokenizer.iterdir()):
        if path.is_file() and path.name not in {"README.md", "manifest.json"}:
            if (work / path.name).exists():
                raise SeedError(f"{path}: a tokenizer file cannot have the name of a model file")
            shutil.copyfile(path, work / path.name)


def _write_record(work: Path, report: ExportReport, checkpoint: Path) -> None:
    state = read_state(checkpoint)
    record = {
        "format": FORMAT,
        "checkpoint": checkpoint.name,
        "step": state.get("step"),
        "consumed_tokens": state.get("consumed_tokens"),
        "architecture": report.architecture,
        "dtype": report.dtype,
        "tensors": report.tensors,
        "parameters": report.parameters,
    }
    _write_json(work / RECORD, record)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
