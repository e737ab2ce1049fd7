"""Fill-in-the-middle: which documents are split, and where.

As the Seed-Coder report has it (section on fill-in-the-middle pretraining): a single file, before packing, cut at two
random characters and written suffix first (SPM). A pure function of (seed, epoch, document id) and the text's length,
so a build is the same on any machine, and a document that is split at one rate is split alike at every higher rate.
"""

import hashlib
from typing import NamedTuple


class Parts(NamedTuple):
    """A document in the order in which it is written; prefix + middle + suffix is the document."""

    suffix: str
    prefix: str
    middle: str


def split_document(seed: int, epoch: int, document_id: str, text: str, rate: float) -> Parts | None:
    """The parts of a document that is to be filled in, None for one that stays whole (probability 1 - `rate`).

    Both cuts are uniform over the `len(text) + 1` places between characters, so a part may be empty.
    """
    chance, first, second = _draws(seed, epoch, document_id)
    if chance >= int(rate * 2**64):
        return None
    places = len(text) + 1
    start, end = sorted((first * places >> 64, second * places >> 64))
    return Parts(suffix=text[end:], prefix=text[:start], middle=text[start:end])


def _draws(seed: int, epoch: int, document_id: str) -> tuple[int, int, int]:
    """Three independent integers, uniform in [0, 2**64)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{document_id}".encode(), digest_size=24, person=b"fim").digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16))
