"""From a Hugging Face model directory to a torch_dist checkpoint that trains on at any layout."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import PreTrainedConfig

from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import read_hf_config, to_model_config
from megatron_seed.hf.mapping import EMBEDDING, HEAD, Row, Shape, places
from megatron_seed.hf.publish import check_room, replacing, seal
from megatron_seed.hf.slices import DTYPES, Dtype, checkpoint_shape, convert, hf_shapes
from megatron_seed.hf.special import GENERATION_CONFIG, IMPORTED_CONFIG, check_tokenizer, read_generation_config
from megatron_seed.hf.torch_dist import Part, write_torch_dist
from megatron_seed.hf.weights import HfWeights
from megatron_seed.runtime import device
from tokenizer.encode import Encoder

# Buffers that some old exports hold and that the config already determines.
_DERIVED = ".rotary_emb.inv_freq"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "vocab.json",
    GENERATION_CONFIG,
)
_CHAT_TEMPLATES = "additional_chat_templates"
# Modules of a layer that keep an (empty) extra state in megatron-core's checkpoints.
_EXTRA_STATES = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)


@dataclass(frozen=True)
class ImportReport:
    """What was written."""

    out: Path
    architecture: str
    model: ModelConfig
    dtype: str
    tensors: int
    """Read from the Hugging Face side."""
    parameters: int
    ignored: tuple[str, ...]
    """Tensors that follow from the config."""


def import_hf(
    hf: Path,
    out: Path,
    *,
    dtype: Dtype | None = None,
    vocab_multiple: int = 128,
    allow_pickle: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Write checkpoint `out` (torch_dist files, model.yaml, state.json, tokenizer/, manifest.json) from directory `hf`.

    Tensors are streamed, one layer's at a time. `dtype` None keeps the files'. Vocabulary rows are padded with zeros to
    a multiple of `vocab_multiple`. Of pickled weights, refused unless `allow_pickle`, nothing but tensors is built.
    `out` appears whole or not at all; one that exists is replaced only if it is an earlier import, or with `force`.
    Raises SeedError for an unknown architecture, a tokenizer with more ids than the model, too small a disk, and
    tensors that are missing, extra or of a wrong shape.
    """
    architecture, hf_config = read_hf_config(Path(hf) / "config.json")
    config = to_model_config(architecture, hf_config, vocab_multiple)
    rows = architecture.rows(config)
    if (Path(hf) / "tokenizer.json").is_file():
        check_tokenizer(Encoder.load(Path(hf)), config)
    read_generation_config(Path(hf))
    weights = HfWeights(Path(hf), allow_pickle)
    ignored = _check_names(weights, rows, config)
    shapes = hf_shapes(rows, config)
    target = _target_dtype(weights, shapes, dtype)
    with replacing(Path(out), Path(hf), is_import, force) as work:
        check_room(Path(out), sum(map(math.prod, shapes.values())) * target.itemsize)
        make = _Maker(weights, rows, config, target, progress)
        entries = write_torch_dist(work, list(_parts(rows, config)), target, make, _extra_states(config))
        (work / "model.yaml").write_text(dump_recipe(config), encoding="utf-8")
        _write_state(work, Path(hf))
        _copy_tokenizer(Path(hf), work / "tokenizer", hf_config)
        seal(work, entries)
    return ImportReport(
        out=Path(out),
        architecture=architecture.name,
        model=config,
        dtype=str(target).removeprefix("torch."),
        tensors=len(shapes),
        parameters=sum(map(math.prod, shapes.values())),
        ignored=ignored,
    )


def is_import(path: Path) -> bool:
    """The directory is a checkpoint that `import_hf` wrote."""
    try:
        return "imported_from" in json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_names(weights: HfWeights, rows: Sequence[Row], config: ModelConfig) -> tuple[str, ...]:
    """Refuse missing, extra and misshapen tensors; give the names of those that carry nothing."""
    expected = hf_shapes(rows, config)
    ignored = {name for name in weights.shapes if name.endswith(_DERIVED)}
    problems = [f"{name} is missing" for name in expected if name not in weights.shapes]
    problems += [
        f"{name} is {list(weights.shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in weights.shapes and weights.shapes[name] != shape
    ]
    extra = [name for name in sorted(weights.shapes) if name not in expected and name not in ignored]
    head = HEAD.hf[0]
    if config.tied_embeddings and head in extra:
        if torch.equal(weights.read(head), weights.read(EMBEDDING.hf[0])):
            ignored.add(head)
        else:
            problems.append(f"{head} differs from the embedding, though config.json ties them")
        extra.remove(head)
    problems += [f"{name} is not part of this architecture" for name in extra]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise SeedError(f"{weights.directory}: not the model of its config.json: {shown}")
    return tuple(sorted(ignored))


def _target_dtype(weights: HfWeights, names: Mapping[str, Shape], chosen: Dtype | None) -> torch.dtype:
    """The chosen dtype, or the files'; SeedError when these are several."""
    if chosen:
        return DTYPES[chosen]
    dtypes = {weights.dtypes[name] for name in names}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES.values()):
        listed = ", ".join(sorted(map(str, dtypes)))
        raise SeedError(f"{weights.directory}: tensors are {listed}: name the dtype to write ({', '.join(DTYPES)})")
    return dtypes.pop()


def _parts(rows: Sequence[Row], config: ModelConfig) -> Iterator[Part]:
    for row, layer in places(rows, config):
        shape = checkpoint_shape(row, config)
        if layer is None:
            yield Part(row.megatron, shape, (0,) * len(shape), shape)
        else:
            yield Part(row.megatron, shape, (layer, *(0,) * (len(shape) - 1)), (1, *shape[1:]))


class _Maker:
    """Makes a checkpoint's chunk from the Hugging Face tensors that go into it."""

    def __init__(
        self,
        weights: HfWeights,
        rows: Sequence[Row],
        config: ModelConfig,
        dtype: torch.dtype,
        progress: Progress | None,
    ) -> None:
        self.weights, self.config, self.dtype, self.progress = weights, config, dtype, progress
        self.rows = {row.megatron: row for row in rows}
        total = sum(1 for _ in places(rows, config))
        self.task = progress.add_task("import tensors", total=total) if progress else None

    def __call__(self, part: Part) -> torch.Tensor:
        row = self.rows[part.key]
        names = row.hf_names(part.offsets[0] if row.per_layer else None)
        pieces = [convert(self.weights.read(name), self.dtype, name) for name in names]
        tensor = row.transform.join(pieces, self.config)
        tensor = tensor.unsqueeze(0) if row.per_layer else tensor
        padding = part.sizes[0] - tensor.shape[0]
        if self.progress:
            self.progress.advance(self.task)
        # A copy, for what comes from a file may share its storage with the rest of that file.
        return torch.cat([tensor, tensor.new_zeros(padding, *tensor.shape[1:])])


def _extra_states(config: ModelConfig) -> dict[str, Any]:
    """The empty per-layer objects that megatron-core asks a checkpoint for."""
    return {
        f"decoder.layers.{module}._extra_state/shard_{layer}_{config.num_layers}": [None]
        for module in _EXTRA_STATES
        for layer in range(config.num_layers)
    }


def _write_state(work: Path, hf: Path) -> None:
    versions = device.versions()
    state = {"step": 0, "consumed_tokens": 0, "versions": versions, "imported_from": hf.resolve().name}
    (work / "state.json").write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_tokenizer(hf: Path, target: Path, config: PreTrainedConfig) -> None:
    target.mkdir()
    for name in _TOKENIZER_FILES:
        if (hf / name).is_file():
            shutil.copyfile(hf / name, target / name)
    if (hf / _CHAT_TEMPLATES).is_dir():
        shutil.copytree(hf / _CHAT_TEMPLATES, target / _CHAT_TEMPLATES)
    config.to_json_file(target / IMPORTED_CONFIG)
