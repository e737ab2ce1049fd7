"""Which repositories are held out.

A repository is held out when the SHA-256 of "<seed>:<name>", read as a fraction of 1, is under `fraction`. That depends
on nothing but the name, so repositories that are added later move no other, and the same repository in two sources
falls on one side. Where fewer than `minimum_repositories` are under it, those with the smallest hashes are held out
too. These follow from what else is there, so their names ("pinned") are kept with the selection, and they stay held out
when it is made again with more data: what was once held out is never trained on.
"""

import hashlib

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from data_prep.errors import DataError

_DIGITS = 64  # of a SHA-256 in hex


class HeldOut(BaseModel):
    """`fraction` of the repositories, by expectation; 0 holds none out. The values are ours: the report names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fraction: float = Field(0.05, ge=0, lt=1)
    seed: int = 1234
    minimum_repositories: int = Field(1, ge=1)

    def threshold(self) -> str:
        """Hashes (hex) below this are held out."""
        return f"{int(self.fraction * (1 << 53)) << (4 * _DIGITS - 53):0{_DIGITS}x}"

    def holds_out(self, repository: str) -> bool:
        """Whether the hash alone holds a repository out."""
        return hashlib.sha256(f"{self.seed}:{repository}".encode()).hexdigest() < self.threshold()


def mark_repositories(database: duckdb.DuckDBPyConnection, config: HeldOut, pinned: list[str]) -> list[str]:
    """Adds the table `sides` (repository, held_out) for the repositories of `left_over`; returns the pinned names.

    Raises `DataError` when one of the two sides would have no repository.
    """
    pins = sorted(set(pinned)) if config.fraction else []
    database.execute(
        """CREATE TABLE hashes AS SELECT repository, sha256(? || ':' || repository) AS hash
        FROM (SELECT DISTINCT repository FROM left_over)""",
        [str(config.seed)],
    )
    condition = "hash < ? OR list_contains(?::VARCHAR[], repository)"
    if config.fraction:
        ((held,),) = database.execute(
            f"SELECT count(*) FROM hashes WHERE {condition}", [config.threshold(), pins]
        ).fetchall()
        if held < config.minimum_repositories:
            more = database.execute(
                f"SELECT repository FROM hashes WHERE NOT ({condition}) ORDER BY hash LIMIT ?",
                [config.threshold(), pins, config.minimum_repositories - held],
            ).fetchall()
            pins = sorted({*pins, *(repository for (repository,) in more)})
    database.execute(
        f"CREATE TABLE sides AS SELECT repository, {condition} AS held_out FROM hashes", [config.threshold(), pins]
    )
    ((held, total),) = database.execute("SELECT count(*) FILTER (held_out), count(*) FROM sides").fetchall()
    if held == total or (config.fraction and held < config.minimum_repositories):
        raise DataError(
            f"{total} repositories cannot be split: {held} held out (at least {config.minimum_repositories} needed), "
            f"{total - held} trained on (at least 1 needed); add repositories, or set held_out.fraction to 0"
        )
    return pins
