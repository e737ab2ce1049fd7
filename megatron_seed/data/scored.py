"""Files with a score each: what a score model trains on.

A document of such a build is a row of exactly `sequence_length` tokens, filled with whole files one after the other and
padded at its end. Beside the build, `PREFIX.targets.safetensors` says after which tokens of a row a score is asked for,
and which. Each file is a document of its own to attention and positions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from megatron_seed.config.schema import Recipe
from megatron_seed.data.files import write_whole
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.loader import Batch, PhaseData
from megatron_seed.errors import SeedError


@dataclass(frozen=True)
class Targets:
    """The files in the rows of a build."""

    starts: np.ndarray
    """[rows + 1] int64, first file of each row."""
    ends: np.ndarray
    """[files] int32, place of a file's last token in its row."""
    scores: np.ndarray
    """[files] fp32, from 0 to 1."""

    @classmethod
    def open(cls, build: IndexedTokens, sequence_length: int) -> Targets:
        """Raises SeedError where there are none, or they are not of this build's rows."""
        path = targets_path(build.prefix)
        if not path.is_file():
            raise SeedError(f"{path}: no such file; a score model trains on builds of `data score train`")
        try:
            found = load_file(path)
            targets = cls(found["starts"], found["ends"], found["scores"])
        except (SafetensorError, KeyError, OSError) as error:
            raise SeedError(f"{path}: cannot be read: {error}") from error
        if not (build.document_lengths == sequence_length).all():
            longest = int(build.document_lengths.max())
            raise SeedError(f"{build.prefix}: rows are of {longest} tokens, but sequence_length is {sequence_length}")
        if not targets._fit(len(build.document_lengths), sequence_length):
            raise SeedError(f"{path}: does not fit the rows of {build.prefix}.idx; make the build again")
        return targets

    def _fit(self, rows: int, length: int) -> bool:
        starts, ends, scores = self.starts, self.ends, self.scores
        if len(starts) != rows + 1 or len(ends) != len(scores) or starts[0] != 0 or starts[-1] != len(ends):
            return False
        if (np.diff(starts) < 0).any() or not (np.isfinite(scores).all() and ((ends >= 0) & (ends < length)).all()):
            return False
        first_of_row = np.zeros(len(ends), bool)
        first_of_row[starts[:-1][np.diff(starts) > 0]] = True
        return bool(((np.diff(ends, prepend=-1) > 0) | first_of_row).all())

    def of_row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Ends and scores of its files."""
        files = slice(int(self.starts[row]), int(self.starts[row + 1]))
        return self.ends[files], self.scores[files]


def targets_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.targets.safetensors")


def write_targets(prefix: Path | str, rows: Sequence[Sequence[tuple[int, float]]]) -> None:
    """`rows` has for each row the (end, score) of its files, in order."""
    files = [file for row in rows for file in row]
    arrays = {
        "starts": np.cumsum([0, *map(len, rows)], dtype=np.int64),
        "ends": np.array([end for end, _ in files], np.int32),
        "scores": np.array([score for _, score in files], np.float32),
    }
    write_whole(targets_path(prefix), lambda stream: stream.write(save(arrays)))


def phase_data(recipe: Recipe) -> type[PhaseData]:
    """The kind of data that a recipe's model trains on."""
    return ScoredPhaseData if recipe.model.head == "score" else PhaseData


@dataclass(frozen=True)
class ScoredPhaseData(PhaseData):
    """Samples are rows; labels are scores, and count after the last token of each file alone."""

    @classmethod
    def open(cls, *args: object, **kwargs: object) -> ScoredPhaseData:
        data = super().open(*args, **kwargs)
        if not data.phase.document_mask:
            raise SeedError(f"phase {data.phase.name}: model.head is score, which needs document_mask: true")
        if any(build.loss_starts is not None for stream in data.streams for build in stream.builds):
            raise SeedError(f"phase {data.phase.name}: model.head is score, which has no loss on targets")
        data.targets  # noqa: B018 - what does not fit is found before training
        return data

    @functools.cached_property
    def targets(self) -> Mapping[Path, Targets]:
        length = self.phase.sequence_length
        builds = [build for stream in self.streams for build in stream.builds]
        return {build.prefix: Targets.open(build, length) for build in builds}

    def batch(self, numbers: Sequence[int]) -> Batch:
        length, rows = self.phase.sequence_length, len(numbers)
        tokens = torch.from_numpy(np.stack([self.sample(number)[:-1] for number in numbers]))
        labels, mask, document_ends = torch.zeros(rows, length), torch.zeros(rows, length), [0]
        for row, number in enumerate(numbers):
            ends, scores = self._files(number)
            labels[row, ends], mask[row, ends] = torch.from_numpy(scores), 1.0
            document_ends += [row * length + int(end) + 1 for end in ends if end + 1 < length]
            document_ends.append((row + 1) * length)
        packed = torch.tensor(document_ends, dtype=torch.int32)
        return {"tokens": tokens, "labels": labels, "loss_mask": mask, "document_ends": packed}

    def _files(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        stream, (piece,) = self.pieces(number)
        build = stream.builds[piece.epoch % len(stream.builds)]
        return self.targets[build.prefix].of_row(piece.document)
