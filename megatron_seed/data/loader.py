"""Batches of a phase. Sample n is a pure function of (phase, seed, n); ranks and micro-batches only share it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from megatron_seed.config.schema import PhaseConfig, SourceConfig
from megatron_seed.data.blend import Blend
from megatron_seed.data.cursor import Cursor, Windows
from megatron_seed.data.indexed import IndexedTokens, read_manifest
from megatron_seed.data.stream import TokenStream
from megatron_seed.errors import SeedError

Batch = dict[str, torch.Tensor]
"""`tokens` and `labels`, int64 [micro_batch, seq]; `loss_mask`, fp32 [micro_batch, seq]."""


@dataclass(frozen=True)
class PhaseData:
    """The samples of a phase, in order."""

    phase: PhaseConfig
    streams: tuple[TokenStream, ...]
    blend: Blend
    cursors: Mapping[str, Cursor]
    """Where the phase found each source."""
    vocab_size: int = np.iinfo(np.int64).max
    """Token ids must be below."""

    @classmethod
    def open(cls, phase: PhaseConfig, seed: int, vocab_size: int, cursors: Mapping[str, Cursor]) -> PhaseData:
        """Open every build of the phase; raises SeedError for one that is damaged or does not fit, by name."""
        streams = tuple(
            TokenStream(source.name, open_builds(source, vocab_size, fim=phase.fim), seed) for source in phase.blend
        )
        return cls(phase, streams, Blend([source.weight for source in phase.blend]), dict(cursors), vocab_size)

    def sample(self, index: int) -> np.ndarray:
        """[sequence_length + 1] tokens; the last one is only a label."""
        chosen, before = self.blend.source(index)
        stream = self.streams[chosen]
        parts = [stream.read(start, stop - start) for start, stop in self._windows(stream).ranges(before)]
        tokens = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if tokens.max() >= self.vocab_size or tokens.min() < 0:
            raise SeedError(
                f"source {stream.name}: has token ids from {tokens.min()} to {tokens.max()}, but model.vocab_size is "
                f"{self.vocab_size}"
            )
        return tokens

    def cursors_after(self, samples: int) -> dict[str, Cursor]:
        """Where each source stands once `samples` of the phase are consumed."""
        given = self.blend.counts(samples).tolist()
        own = {s.name: self._windows(s).after(count) for s, count in zip(self.streams, given, strict=True)}
        return {**self.cursors, **own}

    def _windows(self, stream: TokenStream) -> Windows:
        cursor = self.cursors.get(stream.name, Cursor())
        return Windows(cursor, self.phase.sequence_length, self.phase.shuffle_block, f"{stream.seed}:{stream.name}")

    def micro_batches(self, step: int, data_rank: int, data_size: int) -> Iterator[Batch]:
        """This rank's micro-batches of a step of the phase. All ranks together read global_batch_size samples."""
        size = self.phase.micro_batch_size
        first = step * self.phase.global_batch_size
        for start in range(0, self.phase.global_batch_size, size * data_size):
            begin = first + start + data_rank * size
            yield collate([self.sample(index) for index in range(begin, begin + size)])


def collate(samples: list[np.ndarray]) -> Batch:
    tokens = torch.from_numpy(np.stack(samples))
    return {
        "tokens": tokens[:, :-1].contiguous(),
        "labels": tokens[:, 1:].contiguous(),
        "loss_mask": torch.ones(tokens.shape[0], tokens.shape[1] - 1),
    }


def open_builds(source: SourceConfig, vocab_size: int, fim: float | None = None) -> list[IndexedTokens]:
    """Open the builds of a source and hold their manifests against what the run expects."""
    builds = []
    for prefix in source.builds:
        build = IndexedTokens.open(prefix)
        manifest = read_manifest(prefix)
        if manifest:
            _check_manifest(prefix, manifest, vocab_size, fim)
        builds.append(build)
    return builds


def _check_manifest(prefix: str, manifest: dict, vocab_size: int, fim: float | None) -> None:
    made_for = manifest["tokenizer"]["vocab_size"]
    if made_for > vocab_size:
        raise SeedError(f"{prefix}: built with a tokenizer of {made_for} ids, but model.vocab_size is {vocab_size}")
    rate = manifest["fim"]["rate"]
    if fim is not None and rate != fim:
        raise SeedError(f"{prefix}: built with fill-in-the-middle at rate {rate}, but the phase asks for fim: {fim}")
