"""A source as one endless stream of tokens: its documents, shuffled anew in every epoch, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.keyed import keyed_permutation


@dataclass(frozen=True)
class TokenStream:
    """Position p of the stream is a pure function of (seed, name, builds); reading keeps no state."""

    name: str
    builds: Sequence[IndexedTokens]
    """Epoch e reads builds[e % len(builds)]."""
    seed: int
    _epochs: dict[int, _Epoch] = field(default_factory=dict, repr=False)

    def read(self, position: int, length: int) -> np.ndarray:
        """Tokens [position, position + length) as int64, across documents and epochs."""
        out = np.empty(length, np.int64)
        filled = 0
        while filled < length:
            epoch, offset = self._locate(position + filled)
            part = self._epoch(epoch).read(offset, length - filled)
            out[filled : filled + len(part)] = part
            filled += len(part)
        return out

    @functools.cached_property
    def _round_tokens(self) -> np.ndarray:
        """[builds + 1], stream positions at which each build begins within one round over all of them."""
        return np.concatenate([[0], np.cumsum([len(build.tokens) for build in self.builds])])

    def _locate(self, position: int) -> tuple[int, int]:
        rounds, offset = divmod(position, int(self._round_tokens[-1]))
        build = int(np.searchsorted(self._round_tokens, offset, side="right")) - 1
        return rounds * len(self.builds) + build, offset - int(self._round_tokens[build])

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            # A step reads from two neighbouring epochs at most.
            for old in [known for known in self._epochs if abs(known - epoch) > 1]:
                del self._epochs[old]
            build = self.builds[epoch % len(self.builds)]
            order = keyed_permutation(len(build.document_lengths), f"{self.seed}:{self.name}:{epoch}")
            self._epochs[epoch] = _Epoch(build, order, np.cumsum(build.document_lengths[order], dtype=np.int64))
        return self._epochs[epoch]


@dataclass(frozen=True)
class _Epoch:
    build: IndexedTokens
    order: np.ndarray
    """[documents], document at each place."""
    ends: np.ndarray
    """[documents], position after the document at each place."""

    def read(self, offset: int, length: int) -> np.ndarray:
        """Up to `length` tokens from `offset`, fewer at the end of the epoch."""
        place = int(np.searchsorted(self.ends, offset, side="right"))
        parts: list[np.ndarray] = []
        missing = min(length, int(self.ends[-1]) - offset)
        while missing:
            document = self.build.document(self.order[place])
            skip = len(document) - (int(self.ends[place]) - offset)
            part = document[skip : skip + missing]
            parts.append(part)
            offset += len(part)
            missing -= len(part)
            place += 1
        return np.concatenate(parts)
