"""Checkpoints of Megatron-LM (`--ckpt-format torch_dist`): parameters, optimizer state, and where the run stood.

Format: Megatron-LM's `training/checkpointing.py`. `common.pt` holds its arguments and the iteration; tensors have the
names that megatron-core gives ours too, with these differences: the vocabulary is padded to a multiple that depends on
tensor parallelism, optimizers without fp32 copies save none, and megatron-core before 0.16 could cut a tensor into its
grid of parts and store each part flat (`fully_sharded_model_space`).
"""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from megatron_seed.checkpoint.pickles import read_common
from megatron_seed.checkpoint.reader import CheckpointReader, Shape, TensorInfo
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.schema import Llama3Rope, ModelConfig
from megatron_seed.errors import SeedError

TRACKER = "latest_checkpointed_iteration.txt"
_SHARDINGS = ("fully_reshardable", "fully_sharded_model_space")
# Arguments that would make another model of the same shape; those missing in an older version had this value.
_SAME = MappingProxyType(
    {
        "normalization": "RMSNorm",
        "swiglu": True,
        "position_embedding_type": "rope",
        "rotary_percent": 1.0,
        "add_bias_linear": False,
        "rotary_interleaved": False,
        "apply_layernorm_1p": False,
        "apply_residual_connection_post_layernorm": False,
        "multi_latent_attention": False,
        "num_experts": None,
        "mtp_num_layers": None,
        "window_size": None,
        "no_rope_freq": None,
        "qk_l2_norm": False,
        "softmax_type": "vanilla",
        "attention_output_gate": False,
        "experimental_attention_variant": None,
        "glu_linear_offset": 0.0,
        "activation_func_clamp_value": None,
    }
)
_NEEDED = ("normalization", "swiglu", "position_embedding_type")
_OTHER_NAMES = MappingProxyType(
    {
        "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
        "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    }
)


def find(path: Path) -> Path | None:
    """The checkpoint of Megatron-LM at `path`, or the last of those below it; None where there is none."""
    tracker = path / TRACKER
    if tracker.is_file():
        name = tracker.read_text(encoding="utf-8").strip()
        path = path / (f"iter_{int(name):07d}" if name.isdigit() else name)
    ours = any((path / name).is_file() for name in ("state.json", "model.yaml", "recipe.yaml"))
    return path if (path / ".metadata").is_file() and (path / "common.pt").is_file() and not ours else None


class MegatronLmCheckpoint:
    """Its tensors under our names and in the shapes of `model`; to be read like a CheckpointReader.

    Raises SeedError for another model, and for optimizer state in a form that is bound to the layout it was saved from.
    """

    def __init__(self, path: Path, model: ModelConfig) -> None:
        self.path = path
        self.common = read_common(path / "common.pt")
        self.args = self.common.get("args")
        if not isinstance(self.args, Namespace):
            raise SeedError(f"{path / 'common.pt'}: no arguments of Megatron-LM in it")
        _check_same(path, self.args, model)
        self._raw = CheckpointReader(path)
        self._rows = model.padded_vocab_size
        self.optimizer_tensors = self._raw.optimizer_tensors
        self.objects = self._raw.objects
        self.read_object = self._raw.read_object

    @property
    def progress(self) -> Progress:
        """Where the run stood. It says nothing of our sources: they are read from their beginning."""
        samples, length = getattr(self.args, "consumed_train_samples", 0), getattr(self.args, "seq_length", 0)
        return Progress(step=int(self.common.get("iteration", 0)), consumed_tokens=int(samples) * int(length))

    def check_optimizer(self) -> None:
        """Raise SeedError when the optimizer's state cannot be laid out anew."""
        state = self.common.get("optimizer", {})
        sharding = state.get("param_state_sharding_type") if isinstance(state, dict) else None
        if sharding is not None and sharding not in _SHARDINGS:
            raise SeedError(
                f"{self.path}: the optimizer's state is {sharding}, bound to the layout it was saved from; load it in "
                "Megatron-LM and save it with --dist-ckpt-optim-fully-reshardable, or take start_from.load=weights"
            )

    def has(self, key: str) -> bool:
        return self._raw.has(self._stored(key))

    def info(self, key: str) -> TensorInfo:
        shape, dtype = self._info(self._stored(key))
        return TensorInfo((self._rows, *shape[1:]) if _is_vocabulary(key) else shape, dtype)

    def read(self, key: str) -> torch.Tensor:
        shape = self.info(key).shape
        return self.read_slice(key, (0,) * len(shape), shape)

    def read_slice(self, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        """As CheckpointReader's. Rows of the vocabulary that Megatron-LM did not have are zero."""
        stored = self._stored(key)
        shape, dtype = self._info(stored)
        if not _is_vocabulary(key) or offsets[0] + sizes[0] <= shape[0]:
            return self._read(stored, offsets, sizes)
        result = torch.zeros(tuple(sizes), dtype=dtype)
        there = max(0, shape[0] - offsets[0])
        if there:
            result[:there] = self._read(stored, offsets, (there, *sizes[1:]))
        return result

    def _info(self, stored: str) -> TensorInfo:
        """Of the tensor that was trained, however it is stored."""
        shape, dtype = self._raw.info(stored)
        return TensorInfo(self._raw.whole_shapes.get(stored, shape), dtype)

    def _read(self, stored: str, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        if stored not in self._raw.whole_shapes:
            return self._raw.read_slice(stored, offsets, sizes)
        (*grid, length), dtype = self._raw.info(stored)
        result = torch.empty(tuple(sizes), dtype=dtype)
        own = [whole // parts for whole, parts in zip(self._info(stored).shape, grid, strict=True)]
        for cell in _cells(offsets, sizes, own):
            flat = self._raw.read_slice(stored, (*cell, 0), (*(1,) * len(cell), length))
            ranges = [_common_range(*row) for row in zip(cell, own, offsets, sizes, strict=True)]
            result[tuple(target for _, target in ranges)] = flat.view(own)[tuple(source for source, _ in ranges)]
        return result

    def _stored(self, key: str) -> str:
        if self._raw.has(key):
            return key
        for ours, theirs in _OTHER_NAMES.items():
            if key.endswith(ours) and self._raw.has(key.replace(ours, theirs)):
                return key.replace(ours, theirs)
        return key


def _cells(offsets: Sequence[int], sizes: Sequence[int], part: Sequence[int]) -> Iterator[Shape]:
    """Parts of the grid that a box touches."""
    rows = zip(offsets, sizes, part, strict=True)
    return itertools.product(*(range(offset // own, -(-(offset + size) // own)) for offset, size, own in rows))


def _common_range(cell: int, part: int, offset: int, size: int) -> tuple[slice, slice]:
    """What a part and a box have in common along one dimension: within the part, and within the box."""
    start, stop = max(cell * part, offset), min((cell + 1) * part, offset + size)
    return slice(start - cell * part, stop - cell * part), slice(start - offset, stop - offset)


def _is_vocabulary(key: str) -> bool:
    return key.endswith(("word_embeddings.weight", "output_layer.weight"))


def _check_same(path: Path, args: Namespace, model: ModelConfig) -> None:
    said = vars(args)
    heads = said.get("num_attention_heads")
    theirs = {
        "num_layers": said.get("num_layers"),
        "hidden_size": said.get("hidden_size"),
        "ffn_hidden_size": said.get("ffn_hidden_size"),
        "num_attention_heads": heads,
        "num_query_groups": said.get("num_query_groups") if said.get("group_query_attention") else heads,
        "head_dim": said.get("kv_channels"),
        "norm_epsilon": said.get("norm_epsilon") or said.get("layernorm_epsilon"),
        "tied_embeddings": not said.get("untie_embeddings_and_output_weights"),
        "qkv_bias": bool(said.get("add_qkv_bias")),
        "qk_norm": bool(said.get("qk_layernorm")),
        "rope_scaling": _rope_scaling(said),
    }
    ours = {name: getattr(model, name) for name in theirs} | _SAME
    theirs |= {name: said.get(name, None if name in _NEEDED else value) for name, value in _SAME.items()}
    different = [f"{name} {theirs[name]} instead of {value}" for name, value in ours.items() if theirs[name] != value]
    size, padded = said.get("vocab_size") or model.vocab_size, said.get("padded_vocab_size") or 0
    if size != model.vocab_size or padded < model.vocab_size:
        different.append(f"a vocabulary of {size} (padded {padded}) instead of {model.vocab_size}")
    if different:
        raise SeedError(f"{path} is of another model ({', '.join(different)})")


def _rope_scaling(said: Mapping[str, Any]) -> Llama3Rope | None:
    """Megatron-LM knows Llama 3.1's alone, and of its numbers only the factor can be set."""
    if not said.get("use_rope_scaling"):
        return None
    return Llama3Rope(
        kind="llama3",
        factor=said.get("rope_scaling_factor") or 8.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_max_sequence_length=8192,
    )


def remarks(checkpoint: MegatronLmCheckpoint, model: ModelConfig) -> list[str]:
    """What a person should know before going on."""
    found = ["its files carry no digests and were not checked", "sources are read from their beginning"]
    base = getattr(checkpoint.args, "rotary_base", None)
    if base is not None and not math.isclose(base, model.rotary_base):
        found.append(f"it was trained with rotary_base {base}, from here on it is {model.rotary_base}")
    if checkpoint.args.padded_vocab_size > model.vocab_size:
        found.append(
            f"its loss gave probability to {checkpoint.args.padded_vocab_size - model.vocab_size} padded rows of the "
            "vocabulary, from here on they have none"
        )
    return found
