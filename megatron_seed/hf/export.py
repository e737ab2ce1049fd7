"""From a torch_dist checkpoint of any layout to a Hugging Face model directory."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from megatron_seed.checkpoint.manifest import Entry
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config, read_state
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import to_hf_config
from megatron_seed.hf.card import model_card
from megatron_seed.hf.plan import BLOCK_BYTES, SHARD_BYTES, ExportPlan, plan_checkpoint
from megatron_seed.hf.publish import check_room, replacing, seal
from megatron_seed.hf.shards import write_shards
from megatron_seed.hf.slices import Dtype
from megatron_seed.hf.special import (
    GENERATION_CONFIG,
    IMPORTED_CONFIG,
    generation_config,
    read_imported_config,
    read_special_ids,
    spare_rows,
)

WORKERS = 4
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
    spare_rows: int = 0
    """Rows of the vocabulary for which the tokenizer has no token."""


def export_hf(
    checkpoint: Path,
    out: Path,
    *,
    dtype: Dtype | None = None,
    max_shard_size_bytes: int = SHARD_BYTES,
    workers: int = WORKERS,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `out`: safetensors, config.json, generation_config.json, tokenizer files, README.md, export.json.

    Each of `workers` threads writes a safetensors file, block by block, so that memory does not depend on the model's
    size. `dtype` None keeps the checkpoint's. Padded vocabulary rows are left out. `out` appears whole or not at all;
    one that exists is replaced only if it is an earlier export, or with `force`. Raises SeedError for what is not a
    checkpoint of ours, a wrong shape, a value that does not fit `dtype`, or too small a disk.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if workers < 1:
        raise SeedError(f"workers {workers} is not positive")
    reader, config = CheckpointReader(checkpoint), read_model_config(checkpoint)
    plan = plan_checkpoint(reader, config, dtype, max_shard_size_bytes)
    special = read_special_ids(checkpoint, config)
    hf_config = to_hf_config(config, special, plan.dtype, read_imported_config(checkpoint, config))
    report = ExportReport(
        out=out,
        architecture=plan.architecture.name,
        dtype=str(plan.dtype).removeprefix("torch."),
        tensors=len(plan.sources),
        parameters=plan.parameters,
        files=tuple(plan.files),
        spare_rows=spare_rows(checkpoint, config),
    )
    with replacing(out, checkpoint, is_export, force) as work:
        check_room(out, plan.size_bytes)
        entries = _write_tensors(work, reader, plan, workers, progress)
        hf_config.save_pretrained(work)
        generation_config(checkpoint, hf_config).save_pretrained(work)
        _copy_tokenizer(checkpoint / "tokenizer", work)
        (work / "README.md").write_text(model_card(checkpoint, config, plan.architecture.name), encoding="utf-8")
        _write_record(work, report, checkpoint)
        seal(work, entries)
    return report


def is_export(path: Path) -> bool:
    """The directory is one that `export_hf` wrote."""
    try:
        return json.loads((path / RECORD).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_tensors(
    work: Path, reader: CheckpointReader, plan: ExportPlan, workers: int, progress: Progress | None
) -> dict[str, Entry]:
    task = progress.add_task("export tensors", total=len(plan.sources)) if progress else None
    entries = write_shards(
        work,
        plan.shards,
        plan.dtype,
        lambda name: plan.sources[name].blocks(reader, plan.dtype, BLOCK_BYTES),
        workers,
        (lambda: progress.advance(task)) if progress else (lambda: None),
    )
    if len(plan.files) > 1:
        weight_map = {name: file for file, names in plan.files.items() for name in names}
        sizes = {"total_parameters": plan.parameters, "total_size": plan.parameters * plan.dtype.itemsize}
        index = {"metadata": sizes, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(work / "model.safetensors.index.json", index)
    return entries


def _copy_tokenizer(tokenizer: Path, work: Path) -> None:
    """All its files, those of further chat templates in a folder of theirs included."""
    others = {"README.md", "manifest.json", GENERATION_CONFIG, IMPORTED_CONFIG}
    ours = {RECORD, "model.safetensors", "model.safetensors.index.json"}
    for path in sorted(tokenizer.rglob("*")):
        name = path.relative_to(tokenizer)
        if not path.is_file() or str(name) in others:
            continue
        if (work / name).exists() or str(name) in ours:
            raise SeedError(f"{path}: a tokenizer file cannot have the name of a model file")
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / name)


def _write_record(work: Path, report: ExportReport, checkpoint: Path) -> None:
    state = read_state(checkpoint)
    record = {
        "format": FORMAT,
        "checkpoint": checkpoint.resolve().name,
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
