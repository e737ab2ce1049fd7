"""The model scorer: a pretrained backbone of the Llama family with a regression head, trained by `megatron_seed.train`.

A file is read as in `rows`: its language, its beginning, the end token; the score is the head's number after the end
token, times ten. Training sees each file once (one epoch) and minimises the squared error on scores from 0 to 1.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from data_prep.errors import DataError
from data_prep.scorer.rows import encode_files, write_rows
from data_prep.shards import fingerprint, write_json
from megatron_seed.checkpoint import layout
from megatron_seed.checkpoint.manifest import find_damage, write_manifest
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.schema import LayoutConfig
from megatron_seed.data.manifest import read_manifest
from megatron_seed.data.scored import targets_path
from megatron_seed.generate import load_weights
from megatron_seed.hf.torch_dist import Part, write_torch_dist
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import process_groups
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError

SETTINGS, MODEL = "llama.json", "model"
_ENCODED_AT_ONCE = 512


class LlamaSettings(BaseModel):
    """How a model scorer is trained. The values are ours but for one epoch and the loss, which are the report's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_tokens: int = Field(2048, ge=16)
    """Of a file, its language line and end token included; also the length of a row."""
    batch_rows: int = Field(16, ge=1)
    """Rows of packed files per step."""
    micro_batch_rows: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=0.5)
    """Share of the steps; then the rate falls to a tenth (cosine)."""
    tensor_parallel: int = Field(1, ge=1)
    precision: str = Field("auto", pattern="^(auto|bf16|fp32)$")
    """auto: bf16 on a GPU, fp32 on a CPU."""
    batch_tokens: int = Field(16384, ge=1)
    """When it scores: tokens computed at once, in batches of files of like length."""


def train_llama(
    documents: Sequence[Mapping[str, Any]],
    scores: np.ndarray,
    checkpoint: Path,
    run_dir: Path,
    settings: LlamaSettings,
    processes: int,
    seed: int,
    tokenizer: Path | None = None,
) -> Path:
    """Trains below `run_dir` (rows, and a run folder; stopped, it goes on) and returns the last checkpoint.

    `checkpoint`: the pretrained one, of ours or imported by `hf import`. Raises `DataError` where it cannot start, or
    training fails.
    """
    checkpoint = layout.resolve(checkpoint)
    encoder = _encoder(checkpoint, tokenizer)
    prefix = run_dir / "rows" / "train"
    files = list(zip(_encoded(encoder, documents, settings.file_tokens), scores / 10, strict=True))
    rows = write_rows(prefix, files, settings.file_tokens, settings.batch_rows, encoder)
    recipe = _recipe(checkpoint, prefix, rows, settings, seed, encoder)
    # A folder for each set of scores and settings: what is finished there is never taken for something else.
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (Path(f"{prefix}.bin"), targets_path(prefix))]
    run_dir = run_dir / f"run-{fingerprint(recipe, digests)[:12]}"
    recipe |= {"name": run_dir.name, "run_dir": str(run_dir.resolve())}
    run_dir.mkdir(exist_ok=True)
    path = run_dir / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "megatron_seed.train", str(path)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, *command[1:]]
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))  # torchrun would give each process one
    code = subprocess.run(command, env={"OMP_NUM_THREADS": threads, **os.environ}, check=False).returncode
    if code:
        raise DataError(f"training the scorer ended with exit code {code}; the same command goes on in {run_dir}")
    return layout.finished(run_dir)[-1]


def _encoder(checkpoint: Path, tokenizer: Path | None) -> Encoder:
    """The checkpoint's own tokenizer. Raises `DataError` without one, and for another beside it."""
    if not (checkpoint / ".metadata").is_file():
        raise DataError(f"{checkpoint}: not a checkpoint; give a checkpoint or run folder, or one of `hf import`")
    if damage := find_damage(checkpoint):
        raise DataError(f"pretrained checkpoint {checkpoint}: {damage}")
    own = checkpoint / "tokenizer"
    if not own.is_dir() and tokenizer is None:
        raise DataError(f"{checkpoint}: carries no tokenizer; name the one it was trained with: --tokenizer")
    try:
        encoder = Encoder.load(own if own.is_dir() else tokenizer)
        if own.is_dir() and tokenizer and Encoder.load(tokenizer).digest != encoder.digest:
            raise DataError(f"{tokenizer} is not the tokenizer that {checkpoint} was trained with; leave it out")
        encoder.special.require("eos")
    except TokenizerError as error:
        raise DataError(str(error)) from None
    size = read_model_config(checkpoint).vocab_size
    if encoder.vocab_size > size:
        raise DataError(f"{encoder.path}: {encoder.vocab_size} ids, but the model of {checkpoint} has {size}")
    return encoder


def _encoded(encoder: Encoder, documents: Sequence[Mapping[str, Any]], file_tokens: int) -> Iterator[np.ndarray]:
    for start in range(0, len(documents), _ENCODED_AT_ONCE):
        yield from encode_files(encoder, documents[start : start + _ENCODED_AT_ONCE], file_tokens)


def _recipe(
    checkpoint: Path, prefix: Path, rows: int, settings: LlamaSettings, seed: int, encoder: Encoder
) -> dict[str, Any]:
    tokens = read_manifest(prefix).tokens
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.has_gpu() else "fp32"
    steps = rows // settings.batch_rows
    phase = {
        "name": "scores",
        "tokens": tokens,
        "sequence_length": settings.file_tokens,
        "global_batch_size": settings.batch_rows,
        "micro_batch_size": settings.micro_batch_rows,
        "document_mask": True,
        "shuffle_block": 1,  # rows are shuffled already, and each is to come once
        "learning_rate": {
            "schedule": "cosine",
            "peak": settings.learning_rate,
            "minimum": settings.learning_rate / 10,
            "warmup_tokens": int(settings.warmup * tokens),
        },
        "blend": [{"name": "scores", "builds": str(prefix.resolve())}],
    }
    return {
        "seed": seed,
        "model": {**read_model_config(checkpoint).model_dump(mode="json"), "head": "score"},
        "tokenizer": str(encoder.path),
        "precision": precision,
        "start_from": {"checkpoint": str(checkpoint.resolve()), "load": "backbone", "cursors": "fresh"},
        "layout": {"tensor_parallel": settings.tensor_parallel},
        "phases": [phase],
        "checkpoint": {"every_steps": max(50, steps // 4), "keep_last": 1},
        "logging": {"wandb": "off"},
    }


def write_llama(folder: Path, checkpoint: Path, settings: LlamaSettings) -> None:
    """Puts what scoring needs of a trained checkpoint into a scorer: parameters and tokenizer, no optimizer state."""
    reader, model = CheckpointReader(checkpoint), folder / MODEL
    model.mkdir()
    parts = [part for key in sorted(reader.tensors) for part in _layer_by_layer(key, reader.tensors[key].shape)]
    (dtype,) = {info.dtype for info in reader.tensors.values()}
    write_torch_dist(model, parts, dtype, lambda part: reader.read_slice(part.key, part.offsets, part.sizes), {})
    shutil.copyfile(checkpoint / "model.yaml", model / "model.yaml")
    shutil.copyfile(checkpoint / "state.json", model / "state.json")
    shutil.copytree(checkpoint / "tokenizer", model / "tokenizer")
    write_manifest(model)
    write_json(folder / SETTINGS, settings.model_dump())


def _layer_by_layer(key: str, shape: tuple[int, ...]) -> Iterator[Part]:
    rest = (0,) * (len(shape) - 1)
    if not key.startswith("decoder.layers."):
        yield Part(key, shape, (0, *rest), shape)
        return
    for layer in range(shape[0]):
        yield Part(key, shape, (layer, *rest), (1, *shape[1:]))


class LlamaScorer:
    """A loaded model scorer, on this process's device."""

    def __init__(self, model: torch.nn.Module, encoder: Encoder, settings: LlamaSettings) -> None:
        self.model, self.encoder, self.settings = model.eval(), encoder, settings
        self._resources = contextlib.ExitStack()

    @classmethod
    def load(cls, folder: Path) -> "LlamaScorer":
        """Builds the model on a GPU that no other scorer of this machine uses, or on the CPU."""
        settings = LlamaSettings.model_validate(json.loads((folder / SETTINGS).read_bytes()))
        config = read_model_config(folder / MODEL)
        with contextlib.ExitStack() as resources:
            resources.enter_context(_own_gpu())
            if not torch.distributed.is_initialized():
                resources.enter_context(process_groups(LayoutConfig(), seed=0))
            # Binds `torch` in megatron-core where there is no GPU: not before the process group is there.
            from megatron_seed.model.build import build_model

            (model,) = build_model(config, LayoutConfig(), "bf16" if device.has_gpu() else "fp32")
            load_weights(model, CheckpointReader(folder / MODEL))
            scorer = cls(model, Encoder.load(folder / MODEL / "tokenizer"), settings)
            scorer._resources = resources.pop_all()
            return scorer

    def close(self) -> None:
        self._resources.close()

    def score(self, documents: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores from 0 to 10, fp32, to a thousandth: what is beyond depends on the batch."""
        files = list(_encoded(self.encoder, documents, self.settings.file_tokens))
        scores = np.empty(len(files), np.float32)
        for batch in buckets([len(ids) for ids in files], self.settings.batch_tokens):
            scores[batch] = self._predict([files[index] for index in batch])
        return np.clip(10 * scores, 0, 10).round(3)

    @torch.no_grad()
    def _predict(self, files: Sequence[np.ndarray]) -> np.ndarray:
        """Padded on the right, where a causal model does not see it."""
        where = next(self.model.parameters()).device
        ids = torch.zeros(len(files), max(map(len, files)), dtype=torch.long)
        for row, own in enumerate(files):
            ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        found = self.model(ids.to(where), positions.to(where), None)
        last = torch.tensor([len(own) - 1 for own in files], device=where)
        return found.gather(1, last[:, None]).squeeze(1).float().cpu().numpy()


def buckets(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Batches of files of like length, each of at most `most_tokens` with its padding, unless one file is longer."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[index] > most_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@contextlib.contextmanager
def _own_gpu() -> Iterator[None]:
    """Holds the first GPU that no other scorer's process holds; where all are held, they are shared.

    To be entered before this process has used a GPU.
    """
    count = torch.cuda.device_count()
    if count < 2 or torch.cuda.is_initialized():
        yield
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    with contextlib.ExitStack() as held:
        chosen = names[os.getpid() % count]
        for name in names:
            path = Path(tempfile.gettempdir(), f"megatron-seed-scorer-{os.getuid()}-gpu-{name}.lock")
            lock = held.enter_context(path.open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            chosen = name
            break
        os.environ["CUDA_VISIBLE_DEVICES"] = chosen
        yield
