"""Architectures of Hugging Face transformers that the model can be: their rows, and their config to ours and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import LlamaConfig, PreTrainedConfig

from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.mapping import LLAMA_LAYER, Row, rows_of
from megatron_seed.hf.special import SpecialIds


@dataclass(frozen=True)
class Architecture:
    """One `architectures` entry of a config.json."""

    name: str
    model_type: str
    layer_rows: tuple[Row, ...]
    config_class: type[PreTrainedConfig]
    fields: Callable[[ModelConfig], dict[str, Any]]
    """Arguments of config_class."""
    unsupported: Callable[[PreTrainedConfig], list[str]]
    """What a config asks for that the training model has not got."""

    def rows(self, config: ModelConfig) -> tuple[Row, ...]:
        return rows_of(self.layer_rows, config)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture a model is exported as."""
    return LLAMA


def to_hf_config(config: ModelConfig, special: SpecialIds, dtype: torch.dtype) -> PreTrainedConfig:
    """The config that transformers has for this model; SeedError when transformers cannot have such a model."""
    architecture = architecture_of(config)
    try:
        return architecture.config_class(
            **architecture.fields(config),
            architectures=[architecture.name],
            dtype=str(dtype).removeprefix("torch."),
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
        )
    except StrictDataclassError as error:
        raise SeedError(f"no {architecture.name} has this shape: {' '.join(str(error).split())}") from error


def read_hf_config(directory: Path) -> tuple[Architecture, PreTrainedConfig]:
    """Architecture and config of a Hugging Face directory; SeedError naming what is missing, unknown or unsupported."""
    path = directory / "config.json"
    values = _read_json(path)
    architecture = _find(values, path)
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise SeedError(f"{path}: {', '.join(missing)} missing")
    if "quantization_config" in values:
        raise SeedError(f"{path}: quantized weights (quantization_config); give the unquantized model")
    try:
        config = architecture.config_class.from_dict(values)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise SeedError(f"{path}: {' '.join(str(error).split())}") from error
    problems = architecture.unsupported(config)
    if problems:
        raise SeedError(f"{path}: not supported: {', '.join(problems)}")
    return architecture, config


def to_model_config(config: PreTrainedConfig, vocab_multiple: int) -> ModelConfig:
    """Our config of a Hugging Face one."""
    try:
        return ModelConfig(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            ffn_hidden_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_query_groups=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            vocab_multiple=vocab_multiple,
            max_sequence_length=config.max_position_embeddings,
            rotary_base=config.rope_parameters["rope_theta"],
            norm_epsilon=config.rms_norm_eps,
            init_std=config.initializer_range,
            tied_embeddings=config.tie_word_embeddings,
        )
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SeedError(f"config.json describes no model of ours: {'; '.join(problems)}") from error


_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


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


def _find(values: Mapping[str, Any], path: Path) -> Architecture:
    names = values.get("architectures") or []
    known = {architecture.name: architecture for architecture in ARCHITECTURES}
    found = [known[name] for name in names if name in known]
    if len(names) != 1 or not found:
        what = " and ".join(map(str, names)) or "none"
        raise SeedError(f"{path}: architecture {what} is not supported; supported: {', '.join(known)}")
    return found[0]


def _llama_fields(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_query_groups,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_sequence_length,
        "initializer_range": config.init_std,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_theta": config.rotary_base, "rope_type": "default"},
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _llama_unsupported(config: PreTrainedConfig) -> list[str]:
    rope = config.rope_parameters
    return [
        problem
        for holds, problem in (
            (config.hidden_act != "silu", f"hidden_act {config.hidden_act}"),
            (config.attention_bias, "attention_bias"),
            (config.mlp_bias, "mlp_bias"),
            (rope["rope_type"] != "default", f"rope_type {rope['rope_type']}"),
            (rope.get("partial_rotary_factor", 1.0) != 1.0, "partial_rotary_factor"),
        )
        if holds
    ]


LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    layer_rows=LLAMA_LAYER,
    config_class=LlamaConfig,
    fields=_llama_fields,
    unsupported=_llama_unsupported,
)
ARCHITECTURES = (LLAMA,)
