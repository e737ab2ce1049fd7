"""The held-out sequences that evaluation reads: the same ones every time, spread evenly over a build."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.config.sources import HeldOutConfig, SourceConfig
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import Batch, collate, open_builds
from megatron_seed.data.manifest import read_manifest
from megatron_seed.data.scored import phase_data
from megatron_seed.errors import SeedError
from tokenizer.encode import Encoder


@dataclass(frozen=True)
class HeldOut:
    """One held-out build, cut into windows of sequence_length + 1 tokens."""

    name: str
    build: IndexedTokens
    density: float | None
    """UTF-8 bytes of text per token of the whole build, where the manifest tells."""
    sequence_length: int
    sequences: int
    """Windows that are evaluated."""
    middle_id: int | None = None
    """Token before the middle of an infilling document, where only middles count. Where only targets do, the build
    says where they begin."""
    encoder: Encoder | None = None
    """Of the tokenizer that made the build."""

    @classmethod
    def open(
        cls,
        source: SourceConfig | HeldOutConfig,
        vocab_size: int,
        sequence_length: int,
        max_sequences: int,
        middle_id: int | None = None,
        encoder: Encoder | None = None,
    ) -> HeldOut:
        if len(source.builds) > 1:
            raise SeedError(f"held-out source {source.name}: names {len(source.builds)} builds; it should be one")
        (build,) = open_builds(source, vocab_size, source.fim)
        windows = (build.token_count - 1) // sequence_length
        if not windows:
            raise SeedError(f"held-out source {source.name}: {build.token_count} tokens are less than one sequence")
        manifest = read_manifest(build.prefix)
        density = manifest.size_bytes / manifest.tokens if manifest and manifest.size_bytes else None
        sequences = min(windows, max_sequences)
        return cls(source.name, build, density, sequence_length, sequences, middle_id, encoder)

    @functools.cached_property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text per token whose loss counts: exactly, where the tokenizer tells what each stands for,
        else as in the whole build. None where neither is known; whole documents say nothing of their parts."""
        sizes = self.encoder.token_sizes if self.encoder else None
        if sizes is None:
            return self.density if self._all_count else None
        tokens = size_bytes = 0
        for number in range(self.sequences):
            labels = self.window(number)[1:][self.counted(number)]
            tokens, size_bytes = tokens + len(labels), size_bytes + int(sizes[labels].sum())
        return size_bytes / tokens if tokens else None

    def window(self, number: int) -> np.ndarray:
        start = self._start(number)
        return np.asarray(self.build.tokens[start : start + self.sequence_length + 1], np.int64)

    def counted(self, number: int) -> np.ndarray:
        """[sequence_length] bool, labels of a window whose loss counts: all, or middles or targets with their end."""
        counts = np.full(self.sequence_length, self._all_count)
        if self._all_count:
            return counts
        starts, first = self.build.starts, self._start(number) + 1
        last = first + self.sequence_length
        document = int(np.searchsorted(starts, first, side="right")) - 1
        while document < len(starts) - 1 and starts[document] < last:
            end = int(starts[document + 1])
            counts[max(0, self._counts_from(document) - first) : max(0, end - first)] = True
            document += 1
        return counts

    @property
    def _all_count(self) -> bool:
        return self.middle_id is None and self.build.loss_starts is None

    def _counts_from(self, document: int) -> int:
        """The first token of a document whose loss counts, counted in the build; its end where none does."""
        begin, end = self.build.starts[document : document + 2].tolist()
        if self.build.loss_starts is not None:
            return begin + int(self.build.loss_starts[document])
        (markers,) = np.nonzero(self.build.tokens[begin:end] == self.middle_id)
        return begin + int(markers[0]) + 1 if len(markers) else end

    def _start(self, number: int) -> int:
        windows = (self.build.token_count - 1) // self.sequence_length
        return number * windows // self.sequences * self.sequence_length

    def micro_batches(self, micro_batch_size: int, data_rank: int, data_size: int) -> Iterator[Batch]:
        """This rank's share. Every rank gets the same number of batches; windows past the last have an empty mask."""
        per_round = micro_batch_size * data_size
        for start in range(0, self.batches(micro_batch_size, data_size) * per_round, per_round):
            begin = start + data_rank * micro_batch_size
            numbers = range(begin, begin + micro_batch_size)
            batch = collate([self.window(min(number, self.sequences - 1)) for number in numbers])
            for row, number in enumerate(numbers):
                counted = self.counted(number) if number < self.sequences else np.zeros(self.sequence_length)
                batch["loss_mask"][row] = torch.from_numpy(counted.astype(np.float32))
            yield batch

    def batches(self, micro_batch_size: int, data_size: int) -> int:
        return math.ceil(self.sequences / (micro_batch_size * data_size))

    def unigram_entropy(self) -> float:
        """Entropy in nats of the token frequencies: what a model that knows only these would lose."""
        counts = np.bincount(np.asarray(self.build.tokens, np.int64)).astype(np.float64)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())


def held_out_of(recipe: Recipe, phase: PhaseConfig) -> list[HeldOut]:
    """The held-out sources of a recipe, in sequences of a phase's length."""
    most, sources = recipe.evaluation.max_sequences, recipe.evaluation.held_out
    if recipe.tokenizer and not recipe.tokenizer.is_dir():
        raise SeedError(f"tokenizer {recipe.tokenizer}: no such directory")
    encoder = Encoder.load(recipe.tokenizer) if sources and recipe.tokenizer else None
    size, length = recipe.model.vocab_size, phase.sequence_length
    return [HeldOut.open(source, size, length, most, _middle_id(source, encoder), encoder) for source in sources]


def _middle_id(source: HeldOutConfig, encoder: Encoder | None) -> int | None:
    """The token that begins what is scored; None to score everything."""
    if source.score != "middle":
        return None
    if encoder is None:
        raise SeedError(
            f"held-out source {source.name}: score: middle needs the recipe's tokenizer: name its directory"
        )
    (middle,) = encoder.special.require("fim_middle")
    return middle


def check_data(recipe: Recipe, thorough: bool = True) -> None:
    """Open every build of every phase once; raises SeedError for what is damaged, missing or does not fit."""
    if recipe.model.head == "score" and recipe.evaluation.held_out:
        raise SeedError("evaluation.held_out measures next tokens, and model.head is score; leave it out")
    for phase in recipe.phases:
        phase_data(recipe).open(phase, recipe.seed, recipe.model.vocab_size, {}, thorough=thorough)
        held_out_of(recipe, phase)
    if recipe.tokenizer:
        _check_tokenizer(recipe, recipe.tokenizer)


def _check_tokenizer(recipe: Recipe, tokenizer: Path) -> None:
    """Raise SeedError for a build whose manifest names another tokenizer than the recipe's."""
    digest = Encoder.load(tokenizer).digest
    sources = [*recipe.evaluation.held_out, *(source for phase in recipe.phases for source in phase.blend)]
    for prefix in dict.fromkeys(prefix for source in sources for prefix in source.builds):
        manifest = read_manifest(prefix)
        if manifest and manifest.tokenizer.digest is None:
            raise SeedError(
                f"{prefix}: declared without its tokenizer; say that it is the recipe's: "
                f"megatron-seed data declare {prefix} --tokenizer {tokenizer} --force"
            )
        if manifest and manifest.tokenizer.digest != digest:
            raise SeedError(f"{prefix}: built with another tokenizer than {tokenizer}; build it again, or name its own")
