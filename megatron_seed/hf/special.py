"""The token ids that a Hugging Face config names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_seed.checkpoint.reader import read_state
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from tokenizer.encode import Encoder


@dataclass(frozen=True)
class SpecialIds:
    """None where there is no such token; some imported models have several eos."""

    bos: int | None = None
    eos: int | list[int] | None = None
    pad: int | None = None

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids that end a text."""
        if self.eos is None:
            return ()
        return tuple(self.eos) if isinstance(self.eos, list) else (self.eos,)


def read_special_ids(checkpoint: Path, config: ModelConfig) -> SpecialIds:
    """Ids that came with an imported model, or those of the checkpoint's tokenizer; none without either.

    Raises SeedError when the tokenizer has ids for which the model has no rows.
    """
    imported = read_state(checkpoint).get("special_ids")
    if imported is not None:
        return SpecialIds(**imported)
    encoder = load_tokenizer(checkpoint)
    if encoder is None:
        return SpecialIds()
    if encoder.vocab_size > config.vocab_size:
        raise SeedError(
            f"{encoder.path}: {encoder.vocab_size} token ids, but the model has a vocabulary of {config.vocab_size}"
        )
    return SpecialIds(bos=encoder.special.bos, eos=encoder.special.eos, pad=encoder.special.pad)


def load_tokenizer(checkpoint: Path) -> Encoder | None:
    """The tokenizer that the checkpoint carries, None when it carries none."""
    directory = Path(checkpoint) / "tokenizer"
    return Encoder.load(directory) if (directory / "tokenizer.json").is_file() else None
