"""Batches of a phase. Sample n is a pure function of (phase, seed, n); ranks and micro-batches only share it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megatron_seed.config.schema import PhaseConfig
from megatron_seed.config.sources import HeldOutConfig, SourceConfig
from megatron_seed.data.blend import Blend, BlendMemo
from megatron_seed.data.cursor import Cursor, Windows
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loss import with_loss_starts
from megatron_seed.data.manifest import check_manifest
from megatron_seed.data.stream import Piece, TokenStream
from megatron_seed.errors import SeedError

Batch = dict[str, torch.Tensor]
"""`tokens` and `labels`, int64 [micro_batch, seq]; `loss_mask`, fp32 [micro_batch, seq]; see `collate`."""


@dataclass(frozen=True)
class PhaseData:
    """The samples of a phase, in order."""

    phase: PhaseConfig
    streams: tuple[TokenStream, ...]
    blend: Blend
    cursors: Mapping[str, Cursor]
    """Where the segment found each source; samples are counted from there."""
    vocab_size: int | None = None
    """Token ids must be below."""

    @classmethod
    def open(
        cls,
        phase: PhaseConfig,
        seed: int,
        vocab_size: int | None,
        cursors: Mapping[str, Cursor],
        memo: BlendMemo | None = None,
        *,
        order_cache: Path | None = None,
        thorough: bool = False,
    ) -> PhaseData:
        """Open every build of the phase; raises SeedError for one that is damaged or does not fit, by name."""
        streams = tuple(
            TokenStream(
                source.name,
                open_builds(source, vocab_size, phase.fim if source.fim is None else source.fim, thorough),
                seed,
                order_cache,
            )
            for source in phase.blend
        )
        return cls(phase, streams, Blend([source.weight for source in phase.blend], memo), dict(cursors), vocab_size)

    def sample(self, index: int) -> np.ndarray:
        """[sequence_length + 1] tokens; the last one is only a label."""
        chosen, before = self.blend.source(index)
        stream = self.streams[chosen]
        parts = [stream.read(start, stop - start) for start, stop in self._windows(stream).ranges(before)]
        tokens = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.vocab_size is not None and (tokens.max() >= self.vocab_size or tokens.min() < 0):
            raise SeedError(
                f"source {stream.name}: has token ids from {tokens.min()} to {tokens.max()}, but model.vocab_size is "
                f"{self.vocab_size}"
            )
        return tokens

    def _windows(self, stream: TokenStream) -> Windows:
        return windows_of(self.phase, stream.seed, stream.name, self.cursors)

    def pieces(self, index: int) -> tuple[TokenStream, list[Piece]]:
        """The source of a sample and the documents that its sequence_length tokens come from."""
        chosen, before = self.blend.source(index)
        stream, left = self.streams[chosen], self.phase.sequence_length
        pieces: list[Piece] = []
        for start, stop in self._windows(stream).ranges(before):
            pieces += stream.documents(start, min(stop - start, left))
            left -= min(stop - start, left)
        return stream, pieces

    def documents(self, index: int) -> list[int]:
        """Where documents, or parts of them, begin in a sample; the first is 0."""
        chosen, before = self.blend.source(index)
        stream, length = self.streams[chosen], self.phase.sequence_length
        starts, filled = {0}, 0
        for start, stop in self._windows(stream).ranges(before):
            starts |= {filled, *(filled + place for place in stream.document_starts(start, stop - start))}
            filled += stop - start
        return sorted(start for start in starts if start < length)

    def counted(self, index: int) -> np.ndarray | None:
        """[sequence_length] bool, which labels of a sample have a loss; None for all of them."""
        if all(stream.all_count for stream in self.streams):  # nothing to look for, as in most phases
            return None
        chosen, before = self.blend.source(index)
        stream = self.streams[chosen]
        parts = [stream.counted(start, stop - start) for start, stop in self._windows(stream).ranges(before)]
        return None if parts[0] is None else np.concatenate(parts)[1:]

    def micro_batches(self, first_sample: int, batch_size: int, data_rank: int, data_size: int) -> Iterator[Batch]:
        """This rank's micro-batches of a step over samples [first_sample, first_sample + batch_size)."""
        size = self.phase.micro_batch_size
        for start in range(0, batch_size, size * data_size):
            begin = first_sample + start + data_rank * size
            yield self.batch(range(begin, begin + size))

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These samples as one micro-batch."""
        documents = [self.documents(number) for number in numbers] if self.phase.document_mask else None
        counted = [self.counted(number) for number in numbers]
        return collate([self.sample(number) for number in numbers], documents, counted)


def windows_of(phase: PhaseConfig, seed: int, source: str, cursors: Mapping[str, Cursor]) -> Windows:
    """The samples of one source in a segment that begins at `cursors`."""
    return Windows(cursors.get(source, Cursor()), phase.sequence_length, phase.shuffle_block, f"{seed}:{source}")


def cursors_after(
    phase: PhaseConfig, seed: int, cursors: Mapping[str, Cursor], memo: BlendMemo | None, samples: int
) -> dict[str, Cursor]:
    """Where each source stands once `samples` of a segment are consumed; needs no data to be there."""
    counts = Blend([source.weight for source in phase.blend], memo).counts(samples).tolist()
    names = [source.name for source in phase.blend]
    own = {n: windows_of(phase, seed, n, cursors).after(count) for n, count in zip(names, counts, strict=True)}
    return {**cursors, **own}


def same_order(phase: PhaseConfig, other: PhaseConfig) -> bool:
    """Both give the same samples in the same order from the same cursors."""
    return (phase.blend, phase.sequence_length, phase.shuffle_block) == (
        other.blend,
        other.sequence_length,
        other.shuffle_block,
    )


def collate(
    samples: list[np.ndarray],
    documents: list[list[int]] | None = None,
    counted: Sequence[np.ndarray | None] = (),
) -> Batch:
    """Stack samples of [seq + 1] tokens. With document starts the batch also has `document_ends` [documents + 1] int32,
    counted over all its rows, and no loss where the label belongs to another document. `counted` [seq] says for each
    sample which labels have a loss; None for all."""
    tokens = torch.from_numpy(np.stack(samples))
    rows, length = tokens.shape[0], tokens.shape[1] - 1
    batch = {
        "tokens": tokens[:, :-1].contiguous(),
        "labels": tokens[:, 1:].contiguous(),
        "loss_mask": torch.ones(rows, length),
    }
    for row, counts in enumerate(counted):
        if counts is not None:
            batch["loss_mask"][row] = torch.from_numpy(counts.astype(np.float32))
    if documents is not None:
        starts = [row * length + start for row, own in enumerate(documents) for start in own]
        batch["document_ends"] = torch.tensor([*starts, rows * length], dtype=torch.int32)
        batch["loss_mask"].view(-1)[batch["document_ends"][1:].long() - 1] = 0.0
    return batch


def open_builds(
    source: SourceConfig | HeldOutConfig, vocab_size: int | None, fim: float | None = None, thorough: bool = False
) -> list[IndexedTokens]:
    """Open the builds of a source and hold their manifests against what the run expects (None: expects nothing).

    Raises SeedError for a build that is damaged or does not fit, or, with a `vocab_size`, was not declared.
    """
    builds = [IndexedTokens.open(prefix, thorough) for prefix in source.builds]
    for build in builds:
        check_manifest(build, vocab_size, fim, thorough)
    return [with_loss_starts(build, source.loss, thorough) for build in builds]
