"""The tokens of a document as stretches of text: by what they are for, and short enough to be read."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from data_prep.errors import DataError
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES

_CONTEXT_TOKENS = 8  # before a stretch, that its first characters may depend on
_PARTIAL = "\ufffd"
_BYTES = 4  # of the longest character
_LEAST = 24  # tokens shown of a part
_GAP = 12  # tokens; fewer are shown rather than left out


@dataclass(frozen=True)
class Stretch:
    """Tokens that are shown alike, or left out."""

    kind: str
    """text, suffix, prefix, middle, special, or gap for tokens that are left out."""
    text: str
    ids: tuple[int, ...]
    first: int
    """Place of the first in the document."""
    has_loss: bool = True
    """Whether they are learned; a context is only given."""


def stretches(
    ids: np.ndarray,
    encoder: Encoder,
    most: int = 0,
    loss_start: int = 0,
    separate: bool = False,
    window: slice = slice(None),
) -> list[Stretch]:
    """The tokens of a document, or those in a `window` of it, as stretches.

    Of about `most` tokens (0: of all) the text is shown: each part's first and last ones, parts sharing them by their
    length, the shortest with a few more. `separate` gives each token a stretch of its own, or those that are one
    character together. Raises `DataError` for an id that the tokenizer does not have.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < encoder.vocab_size:
        wrong = int(ids.max()) if ids.min() >= 0 else int(ids.min())
        raise DataError(f"the build has the id {wrong}, and {encoder.path} those from 0 to {encoder.vocab_size - 1}")
    begin, end, _ = window.indices(len(ids))
    clipped = ((kind, max(start, begin), min(stop, end)) for kind, start, stop in _parts(ids, encoder, loss_start))
    parts = [part for part in clipped if part[1] < part[2]]
    texts = sum(stop - start for kind, start, stop in parts if kind != "special")
    found: list[Stretch] = []
    for kind, start, stop in parts:
        is_short = not most or texts <= most or kind == "special"
        room = stop - start if is_short else max(_LEAST, most * (stop - start) // texts)
        for shown, first, last in _cut(ids, start, stop, room, encoder):
            if shown and separate:
                pieces = list(_one_by_one(ids, first, last, start, encoder))
            else:
                text = _between(ids, first, last, start, encoder) if shown else ""
                pieces = [(text, tuple(ids[first:last].tolist()), first)]
            found += [Stretch(kind if shown else "gap", *piece, start >= loss_start) for piece in pieces]
    return found


def _parts(ids: np.ndarray, encoder: Encoder, loss_start: int) -> Iterator[tuple[str, int, int]]:
    """(kind, start, stop): special tokens alone, and what stands between them; cut where loss begins."""
    roles = {index: role for role, index in asdict(encoder.special).items() if index is not None}
    sizes = encoder.token_sizes
    special = np.isin(ids, list(roles)) if sizes is None else (sizes[ids] == 0) | np.isin(ids, list(roles))
    kind, start = "text", 0
    for place in [*np.flatnonzero(special).tolist(), len(ids)]:
        borders = [start, *([loss_start] if start < loss_start < place else []), place]
        yield from ((kind, one, other) for one, other in itertools.pairwise(borders) if one < other)
        if place < len(ids):
            role = roles.get(int(ids[place]))
            kind = role.removeprefix("fim_") if role in FIM_ROLES else "text"
            yield "special", place, place + 1
        start = place + 1


def _cut(ids: np.ndarray, start: int, stop: int, room: int, encoder: Encoder) -> Iterator[tuple[bool, int, int]]:
    """(shown, start, stop): all of a part, or its head and its tail, cut between characters, with a gap between."""
    head, tail = start + (room + 1) // 2, stop - room // 2
    for _ in range(_BYTES - 1):
        if head < tail and encoder.decode(ids[start:head]).endswith(_PARTIAL):
            head += 1
        if head < tail < stop and encoder.decode(ids[tail:stop]).startswith(_PARTIAL):
            tail += 1
    if tail - head < _GAP:
        yield True, start, stop
        return
    yield True, start, head
    yield False, head, tail
    if tail < stop:
        yield True, tail, stop


def _between(ids: np.ndarray, first: int, last: int, start: int, encoder: Encoder) -> str:
    """Text of ids[first:last], of a part that begins at `start`, as it is after the tokens before it."""
    for tokens in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + _BYTES):  # until it begins with a whole character
        context = ids[max(start, first - tokens) : first]
        before = encoder.decode(context) if len(context) else ""
        if _PARTIAL not in before:
            whole = encoder.decode(np.concatenate([context, ids[first:last]]))
            if whole.startswith(before):
                return whole[len(before) :]
    return encoder.decode(ids[first:last])


def _one_by_one(
    ids: np.ndarray, first: int, last: int, start: int, encoder: Encoder
) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(text, ids, place) of each token; tokens that only together make characters stay together."""
    begin = first
    for end in range(first + 1, last + 1):
        text = _between(ids, begin, end, start, encoder)
        if not text.endswith(_PARTIAL) or end - begin >= _BYTES or end == last:
            yield text, tuple(ids[begin:end].tolist()), begin
            begin = end
