"""Which repositories are held out.

A repository is held out when the SHA-256 of "<seed>:<name>", read as a fraction of 1, is under `fraction`. That depends
on nothing but the name, so repositories that are added later move no other, and the same repository in two sources
falls on one side. Repositories of one family (see `data_prep.dedup.near_repositories`) all go where those of them go
that are kept. Where fewer than `minimum_repositories` are under it, those with the smallest hashes are held out
too. These, and families, follow from what else is there, so the names of those held out ("pinned") are kept with the
selection, and they stay held out when it is made again with more data: what was once held out is never trained on.
"""

import hashlib

from pydantic import BaseModel, ConfigDict, Field

SPLITS = ("train", "held_out")
_DIGITS = 64  # of a SHA-256 in hex


def hash_below(fraction: float) -> str:
    """What a SHA-256 as hex digits is below (as text) for this share of all names, by expectation."""
    if fraction == 1:
        return "g"  # no digit is above it
    return f"{int(fraction * (1 << 53)) << (4 * _DIGITS - 53):0{_DIGITS}x}"


class HeldOut(BaseModel):
    """`fraction` of the repositories, by expectation; 0 holds none out. The values are ours: the report names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fraction: float = Field(0.05, ge=0, lt=1)
    seed: int = 1234
    minimum_repositories: int = Field(1, ge=1)

    def threshold(self) -> str:
        """Hashes (hex) below this are held out."""
        return hash_below(self.fraction)

    def holds_out(self, repository: str) -> bool:
        """Whether the hash alone holds a repository out."""
        return hashlib.sha256(f"{self.seed}:{repository}".encode()).hexdigest() < self.threshold()
