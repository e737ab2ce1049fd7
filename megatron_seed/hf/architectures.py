"""Architectures of Hugging Face transformers that the model can be: their rows, and their config to ours and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from megatron_seed.config.schema import LinearRope, Llama3Rope, ModelConfig, YarnRope
from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import LLAMA_LAYER, QWEN2_LAYER, QWEN3_LAYER, Row, rows_of


@dataclass(frozen=True)
class SpecialIds:
    """None where there is no such token; some imported models have several eos."""

    bos: int | None = None
    eos: int | list[int] | None = None
    pad: int | None = None


@dataclass(frozen=True)
class Architecture:
    """One `architectures` entry of a config.json."""

    name: str
    config_class: type[PreTrainedConfig]
    layer_rows: tuple[Row, ...]
    traits: Mapping[str, bool]
    """Fields of ModelConfig that tell this architecture from the others."""
    fixed: Mapping[str, Any]
    """What a config.json must say, where it says something of these, for the training model to be that model."""

    def rows(self, config: ModelConfig) -> tuple[Row, ...]:
        return rows_of(self.layer_rows, config)


_FIXED = {"hidden_act": "silu"}
LLAMA = Architecture(
    name="LlamaForCausalLM",
    config_class=LlamaConfig,
    layer_rows=LLAMA_LAYER,
    traits={"qkv_bias": False, "qk_norm": False},
    fixed={**_FIXED, "attention_bias": False, "mlp_bias": False},
)
QWEN2 = Architecture(
    name="Qwen2ForCausalLM",
    config_class=Qwen2Config,
    layer_rows=QWEN2_LAYER,
    traits={"qkv_bias": True, "qk_norm": False},
    fixed={**_FIXED, "use_sliding_window": False},
)
QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    config_class=Qwen3Config,
    layer_rows=QWEN3_LAYER,
    traits={"qkv_bias": False, "qk_norm": True},
    fixed={**_FIXED, "attention_bias": False, "use_sliding_window": False},
)
ARCHITECTURES = (LLAMA, QWEN2, QWEN3)

# Scaling of rotary positions: class, and its settings' names in rope_parameters and with us.
_ROPE_NAMES = {
    "linear": (LinearRope, {"factor": "factor"}),
    "llama3": (
        Llama3Rope,
        {
            "factor": "factor",
            "low_freq_factor": "low_frequency_factor",
            "high_freq_factor": "high_frequency_factor",
            "original_max_position_embeddings": "original_max_sequence_length",
        },
    ),
    "yarn": (
        YarnRope,
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_max_sequence_length",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "attention_factor": "attention_factor",
        },
    ),
}
_ROPE_PLAIN = {"rope_theta", "rope_type", "type"}
# Of an imported config: what is ours to say, what follows from that, and code that does not come along.
_NOT_KEPT = {"architectures", "auto_map", "dtype", "layer_types", "model_type", "torch_dtype", "transformers_version"}
# What may differ between a model and what it was trained on from.
_NOT_SHAPE = {"vocab_multiple", "max_sequence_length", "rotary_base", "rope_scaling", "init_std"}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture a model is exported as; SeedError when none of ours is such a model."""
    if config.head == "score":
        raise SeedError("a score model (model.head: score) has no Hugging Face form here")
    for architecture in ARCHITECTURES:
        if all(getattr(config, name) == value for name, value in architecture.traits.items()):
            return architecture
    traits = ", ".join(f"{name} {getattr(config, name)}" for name in LLAMA.traits)
    raise SeedError(f"no Hugging Face architecture known here has {traits}; known: {_names()}")


def to_hf_config(
    config: ModelConfig, special: SpecialIds, dtype: torch.dtype, imported: PreTrainedConfig | None = None
) -> PreTrainedConfig:
    """The config that transformers has for this model; SeedError when transformers cannot have such a model.

    `imported` is the config that the model came with: what it says beyond the model's shape is kept.
    """
    architecture = architecture_of(config)
    kept = {} if imported is None else _kept(architecture, imported, config)
    try:
        return architecture.config_class(
            **_fields(architecture, config) | kept,
            architectures=[architecture.name],
            dtype=str(dtype).removeprefix("torch."),
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
        )
    except StrictDataclassError as error:
        raise SeedError(f"no {architecture.name} has this shape: {' '.join(str(error).split())}") from error


def read_hf_config(path: Path) -> tuple[Architecture, PreTrainedConfig]:
    """Architecture and config of a config.json; SeedError naming what is missing, unknown or unsupported."""
    values = _read_json(path)
    architecture = _find(values, path)
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise SeedError(f"{path}: {', '.join(missing)} missing")
    wrong = [f"{name} {values[name]!r}" for name in _REQUIRED if not _is_count(values[name])]
    if wrong:
        raise SeedError(f"{path}: {', '.join(wrong)}: must be a whole number above zero")
    if "quantization_config" in values:
        raise SeedError(f"{path}: quantized weights (quantization_config); give the unquantized model")
    try:
        config = architecture.config_class.from_dict(values)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise SeedError(f"{path}: {' '.join(str(error).split())}") from error
    problems = _unsupported(architecture, config)
    if problems:
        raise SeedError(f"{path}: not supported: {', '.join(problems)}")
    return architecture, config


def to_model_config(architecture: Architecture, config: PreTrainedConfig, vocab_multiple: int) -> ModelConfig:
    """Our config of a Hugging Face one."""
    try:
        return ModelConfig(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            ffn_hidden_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_query_groups=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size,
            vocab_multiple=vocab_multiple,
            max_sequence_length=config.max_position_embeddings,
            rotary_base=config.rope_parameters["rope_theta"],
            rope_scaling=_rope_scaling(config.rope_parameters),
            norm_epsilon=config.rms_norm_eps,
            init_std=config.initializer_range,
            tied_embeddings=config.tie_word_embeddings,
            **architecture.traits,
        )
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SeedError(f"config.json describes no model of ours: {'; '.join(problems)}") from error


def is_same_shape(config: ModelConfig, architecture: Architecture, imported: PreTrainedConfig) -> bool:
    """A model of the imported config, trained on or as it came."""
    theirs = to_model_config(architecture, imported, config.vocab_multiple)
    return theirs.model_dump(exclude=_NOT_SHAPE) == config.model_dump(exclude=_NOT_SHAPE)


def _kept(architecture: Architecture, imported: PreTrainedConfig, config: ModelConfig) -> dict[str, Any]:
    """Fields of an imported config that the model's shape does not tell, such as those of training or of generation."""
    told = _NOT_KEPT | set(_fields(architecture, config)) | {f"{role}_token_id" for role in asdict(SpecialIds())}
    kept = {name: value for name, value in imported.to_diff_dict().items() if name not in told}
    ours = to_model_config(architecture, imported, config.vocab_multiple)
    if (ours.rotary_base, ours.rope_scaling) == (config.rotary_base, config.rope_scaling):
        kept["rope_parameters"] = dict(imported.rope_parameters)  # the same, said as it was said
    return kept


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SeedError(f"{path}: {error.strerror}: not a Hugging Face model directory") from error
    except ValueError as error:
        raise SeedError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SeedError(f"{path}: a config is a mapping, this is {type(values).__name__}")
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _find(values: Mapping[str, Any], path: Path) -> Architecture:
    names = values.get("architectures") or []
    names = names if isinstance(names, list) else [names]
    known = {architecture.name: architecture for architecture in ARCHITECTURES}
    found = [known[name] for name in names if isinstance(name, str) and name in known]
    if len(names) != 1 or not found:
        what = " and ".join(map(str, names)) or "none"
        raise SeedError(f"{path}: architecture {what} is not supported; supported: {_names()}")
    return found[0]


def _names() -> str:
    return ", ".join(architecture.name for architecture in ARCHITECTURES)


def _fields(architecture: Architecture, config: ModelConfig) -> dict[str, Any]:
    """Arguments of the architecture's config class."""
    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_query_groups,
        "max_position_embeddings": config.max_sequence_length,
        "initializer_range": config.init_std,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": _rope_parameters(config),
        "tie_word_embeddings": config.tied_embeddings,
        **architecture.fixed,
    }
    # Where the class has no such field, transformers still takes one that is not the usual quotient.
    usual = config.head_dim * config.num_attention_heads == config.hidden_size
    if not usual or hasattr(architecture.config_class, "head_dim"):
        fields["head_dim"] = config.head_dim
    return fields


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rotary_base, "rope_type": "default"}
    kind, names = _ROPE_NAMES[scaling.kind]
    settings = {
        theirs: getattr(scaling, ours)
        for theirs, ours in names.items()
        if kind.model_fields[ours].is_required() or getattr(scaling, ours) != kind.model_fields[ours].default
    }
    return {"rope_theta": config.rotary_base, "rope_type": scaling.kind, **settings}


def _rope_scaling(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = parameters["rope_type"]
    if kind == "default":
        return None
    _, names = _ROPE_NAMES[kind]
    return {"kind": kind} | {ours: parameters[theirs] for theirs, ours in names.items() if theirs in parameters}


def _unsupported(architecture: Architecture, config: PreTrainedConfig) -> list[str]:
    """What a config asks for that the training model has not got."""
    problems = [
        f"{name} {getattr(config, name)}"
        for name, value in architecture.fixed.items()
        if getattr(config, name, value) != value
    ]
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    problems += [f"layer_types {', '.join(sorted(others))}"] if others else []
    rope = {name: value for name, value in config.rope_parameters.items() if value is not None}
    if rope.pop("partial_rotary_factor", 1.0) != 1.0:
        problems.append("partial_rotary_factor")
    kind = rope["rope_type"]
    if kind != "default" and kind not in _ROPE_NAMES:
        return [*problems, f"rope_type {kind} (supported: default, {', '.join(_ROPE_NAMES)})"]
    known = _ROPE_PLAIN | set(_ROPE_NAMES[kind][1] if kind in _ROPE_NAMES else ())
    return problems + [f"{name} of rope_type {kind}" for name in sorted(set(rope) - known)]
