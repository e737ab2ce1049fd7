"""The token ids that a Hugging Face config names, and what else says how to generate."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig, PreTrainedConfig

from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import SpecialIds, is_same_shape, read_hf_config
from tokenizer.encode import Encoder

GENERATION_CONFIG = "generation_config.json"
"""Lies among the tokenizer's files of a checkpoint, where a model came with one."""


IMPORTED_CONFIG = "imported_config.json"
"""The config.json that a model came with, beside it; so both go where the tokenizer goes that they are about."""


def read_imported_config(checkpoint: Path, config: ModelConfig) -> PreTrainedConfig | None:
    """The config.json that the model came with; None for one that did not, or has another shape than what came."""
    path = Path(checkpoint) / "tokenizer" / IMPORTED_CONFIG
    if not path.is_file():
        return None
    architecture, imported = read_hf_config(path)
    return imported if is_same_shape(config, architecture, imported) else None


def read_special_ids(checkpoint: Path, config: ModelConfig) -> SpecialIds:
    """Ids that came with an imported model, or those of the checkpoint's tokenizer; none without either.

    Raises SeedError when the tokenizer has ids for which the model has no rows.
    """
    encoder = load_tokenizer(checkpoint)
    check_tokenizer(encoder, config)
    imported = read_imported_config(checkpoint, config)
    if imported is not None:
        return SpecialIds(imported.bos_token_id, imported.eos_token_id, imported.pad_token_id)
    if encoder is None:
        return SpecialIds()
    return SpecialIds(bos=encoder.special.bos, eos=encoder.special.eos, pad=encoder.special.pad)


def read_stop_ids(checkpoint: Path, config: ModelConfig) -> frozenset[int]:
    """Ids that end a text: the config's, and those that a chat model's generation config adds."""
    generation = read_generation_config(Path(checkpoint) / "tokenizer")
    return frozenset(
        [*_ids(read_special_ids(checkpoint, config).eos), *_ids(generation.eos_token_id if generation else None)]
    )


def generation_config(checkpoint: Path, config: PreTrainedConfig) -> GenerationConfig:
    """What came with the model, or what transformers makes of its config."""
    return read_generation_config(Path(checkpoint) / "tokenizer") or GenerationConfig.from_model_config(config)


def load_tokenizer(checkpoint: Path) -> Encoder | None:
    """The tokenizer that the checkpoint carries, None when it carries none."""
    directory = Path(checkpoint) / "tokenizer"
    return Encoder.load(directory) if (directory / "tokenizer.json").is_file() else None


def check_tokenizer(encoder: Encoder | None, config: ModelConfig) -> None:
    """Refuse a tokenizer that has ids for which the model has no rows."""
    if encoder is not None and encoder.vocab_size > config.vocab_size:
        raise SeedError(
            f"{encoder.path}: {encoder.vocab_size} token ids, but the model has a vocabulary of {config.vocab_size}"
        )


def spare_rows(checkpoint: Path, config: ModelConfig) -> int:
    """Rows of the vocabulary for which the tokenizer has no token; 0 without one."""
    encoder = load_tokenizer(checkpoint)
    return config.vocab_size - encoder.vocab_size if encoder else 0


def read_generation_config(directory: Path) -> GenerationConfig | None:
    """None where there is none; SeedError for one that transformers does not read."""
    path = directory / GENERATION_CONFIG
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SeedError(f"{path}: {' '.join(str(error).split())}") from error


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]
