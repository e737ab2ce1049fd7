"""Which repositories are held out.

A repository is held out when the SHA-256 of "<seed>:<name>", read as a fraction of 1, is under `fraction`. That depends
on nothing but the name, so repositories that are added later move no other, and the same repository in two sources
falls on one side. Repositories of one family (see `data_prep.dedup.near_repositories`) all go where those of them go
that are kept. Where fewer than `minimum_repositories` are under it, those with the smallest hashes are held out
too. These, and families, follow from what else is there, so the names of those held out ("pinned") are kept with the
selection, and they stay held out when it is made again with more data: what was once held out is never trained on.
"""

import hashlib
from typing import Any

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from data_prep.errors import DataError

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


def mark_repositories(
    database: duckdb.DuckDBPyConnection, config: HeldOut, pinned: list[str], families: bool = False
) -> list[str]:
    """Adds the table `sides` (repository, held_out) for the repositories of `left_over`; returns the pinned names.

    With `families` there is a table `families` (repository, family, kept); a repository may be of several.
    Raises `DataError` when one of the two sides would have no repository.
    """
    pins = sorted(set(pinned)) if config.fraction else []
    _group(database, config, families)
    held = "SELECT grouping FROM hashes WHERE (decides AND hash < ?) OR list_contains(?::VARCHAR[], repository)"
    if config.fraction:
        ((count,),) = database.execute(
            f"SELECT count(*) FROM hashes WHERE left_over AND grouping IN ({held})", [config.threshold(), pins]
        ).fetchall()
        if count < config.minimum_repositories:
            more = database.execute(
                f"""SELECT grouping, count(*) FILTER (left_over) AS members FROM hashes WHERE grouping NOT IN ({held})
                GROUP BY grouping HAVING members > 0 ORDER BY min(hash) LIMIT ?""",
                [config.threshold(), pins, config.minimum_repositories - count],
            ).fetchall()
            while more and count < config.minimum_repositories:
                grouping, members = more.pop(0)
                count += members
                pins += _members(database, "grouping = ?", [grouping])
    database.execute(
        f"CREATE TABLE sides AS SELECT repository, grouping IN ({held}) AS held_out FROM hashes WHERE left_over",
        [config.threshold(), pins],
    )
    if families and config.fraction:
        pins += _members(database, f"in_family AND grouping IN ({held})", [config.threshold(), pins])
    ((held_count, total),) = database.execute("SELECT count(*) FILTER (held_out), count(*) FROM sides").fetchall()
    if held_count == total or (config.fraction and held_count < config.minimum_repositories):
        raise DataError(
            f"{total} repositories cannot be split: {held_count} held out (at least {config.minimum_repositories} "
            f"needed), {total - held_count} trained on (at least 1 needed); add repositories, or set held_out.fraction "
            "to 0"
        )
    return sorted(set(pins))


def _members(database: duckdb.DuckDBPyConnection, condition: str, values: list[Any]) -> list[str]:
    return [name for (name,) in database.execute(f"SELECT repository FROM hashes WHERE {condition}", values).fetchall()]


def _group(database: duckdb.DuckDBPyConnection, config: HeldOut, families: bool) -> None:
    """Adds the table `hashes`: repository, hash, grouping (repositories that must be on one side), and what decides."""
    if not families:
        database.execute("CREATE OR REPLACE TABLE families (repository VARCHAR, family VARCHAR, kept BOOLEAN)")
    # A name in two sources connects their families; so groupings are components of names and families.
    root: dict[str, str] = {}
    for repository, family in database.execute("SELECT DISTINCT repository, family FROM families").fetchall():
        one, other = _root(root, f"r{repository}"), _root(root, f"f{family}")
        root[max(one, other)] = min(one, other)
    found = [name[1:] for name in root if name.startswith("r")]
    database.execute("CREATE OR REPLACE TABLE groupings (repository VARCHAR, grouping VARCHAR)")
    database.execute(
        "INSERT INTO groupings SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
        [found, [_root(root, f"r{name}") for name in found]],
    )
    database.execute(
        """CREATE TABLE hashes AS
        WITH names AS (
            SELECT repository, true AS left_over FROM left_over
            UNION ALL SELECT repository, false FROM families
        ), kept AS (
            SELECT repository, bool_or(kept) AS kept FROM families GROUP BY repository
        )
        SELECT repository, sha256(? || ':' || repository) AS hash, bool_or(left_over) AS left_over,
               any_value(coalesce(grouping, 'r' || repository)) AS grouping, coalesce(any_value(kept), true) AS decides,
               any_value(kept) IS NOT NULL AS in_family
        FROM names LEFT JOIN groupings USING (repository) LEFT JOIN kept USING (repository)
        GROUP BY repository""",
        [str(config.seed)],
    )


def _root(root: dict[str, str], name: str) -> str:
    root.setdefault(name, name)
    while root[name] != name:
        root[name] = root[root[name]]
        name = root[name]
    return name
