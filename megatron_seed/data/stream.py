"""A source as one endless stream of tokens: its documents, shuffled anew in every epoch, one after the other."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.data.order import epoch_order, order_key


class Piece(NamedTuple):
    """A run of tokens of one document."""

    epoch: int
    document: int
    """Its number in the build that the epoch reads."""
    first: int
    """First token, counted in the document."""
    tokens: int


@dataclass(frozen=True)
class TokenStream:
    """Position p of the stream is a pure function of (seed, name, builds); reading keeps no state."""

    name: str
    builds: Sequence[IndexedTokens]
    """Epoch e reads builds[e % len(builds)]."""
    seed: int
    order_cache: Path | None = None
    """Folder for the orders of large builds; None keeps them in memory."""
    _epochs: dict[int, _Epoch] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

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

    def document_starts(self, position: int, length: int) -> list[int]:
        """Where documents begin in [position, position + length), counted from `position`."""
        starts, filled = [], 0
        while filled < length:
            epoch, offset = self._locate(position + filled)
            found, taken = self._epoch(epoch).document_starts(offset, length - filled)
            starts += [filled + start for start in found]
            filled += taken
        return starts

    def documents(self, position: int, length: int) -> list[Piece]:
        """What [position, position + length) is made of."""
        pieces: list[Piece] = []
        filled = 0
        while filled < length:
            epoch, offset = self._locate(position + filled)
            found = self._epoch(epoch).documents(epoch, offset, length - filled)
            pieces += found
            filled += sum(piece.tokens for piece in found)
        return pieces

    def counted(self, position: int, length: int) -> np.ndarray | None:
        """[length] bool, which of the tokens [position, position + length) count as labels; None for all of them."""
        if self.all_count:
            return None
        counts, place = np.ones(length, bool), 0
        for piece in self.documents(position, length):
            starts = self.builds[piece.epoch % len(self.builds)].loss_starts
            given = 0 if starts is None else int(starts[piece.document]) - piece.first
            counts[place : place + min(max(given, 0), piece.tokens)] = False
            place += piece.tokens
        return counts

    @functools.cached_property
    def all_count(self) -> bool:
        """Every token counts as a label."""
        return all(build.loss_starts is None for build in self.builds)

    @functools.cached_property
    def _round_tokens(self) -> np.ndarray:
        """[builds + 1], stream positions at which each build begins within one round over all of them."""
        return np.concatenate([[0], np.cumsum([build.token_count for build in self.builds])])

    def _locate(self, position: int) -> tuple[int, int]:
        rounds, offset = divmod(position, int(self._round_tokens[-1]))
        build = int(np.searchsorted(self._round_tokens, offset, side="right")) - 1
        return rounds * len(self.builds) + build, offset - int(self._round_tokens[build])

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            if epoch not in self._epochs:
                # A step reads from two neighbouring epochs at most.
                for old in [known for known in self._epochs if abs(known - epoch) > 1]:
                    del self._epochs[old]
                build = self.builds[epoch % len(self.builds)]
                order = epoch_order(build, order_key(self.seed, self.name, epoch), self.order_cache)
                self._epochs[epoch] = _Epoch(build, order.documents, order.ends)
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

    def document_starts(self, offset: int, length: int) -> tuple[list[int], int]:
        """Starts of documents after `offset`, counted from it, and how many tokens were looked at."""
        taken = min(length, int(self.ends[-1]) - offset)
        first = int(np.searchsorted(self.ends, offset, side="right"))
        last = int(np.searchsorted(self.ends, offset + taken, side="left"))
        starts = (self.ends[max(0, first - 1) : last] - offset).tolist()
        if first == 0:
            starts = [-offset, *starts]
        return sorted({start for start in starts if 0 <= start < taken}), taken

    def documents(self, epoch: int, offset: int, length: int) -> list[Piece]:
        """Up to `length` tokens from `offset`, by document."""
        place = int(np.searchsorted(self.ends, offset, side="right"))
        missing = min(length, int(self.ends[-1]) - offset)
        pieces = []
        while missing:
            document = int(self.order[place])
            left = int(self.ends[place]) - offset
            first = int(self.build.document_lengths[document]) - left
            taken = min(left, missing)
            if taken:
                pieces.append(Piece(epoch, document, first, taken))
            offset, missing, place = offset + taken, missing - taken, place + 1
        return pieces
