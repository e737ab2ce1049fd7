"""A selection as one process over all documents would make it: plain queries of one database, nothing partitioned."""

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from data_prep.annotations import annotation_directory, annotation_names
from data_prep.database import add_shards_view
from data_prep.documents import METADATA_COLUMNS, list_shards
from data_prep.held_out import HeldOut
from data_prep.selection.config import SelectionConfig
from data_prep.storage import read_parquet_schema

BOTH = "in_both_splits"


@dataclass
class Expected:
    """(id, split, dropped_by) of each document; amounts of the waterfall; names that stay held out."""

    rows: list[tuple[str, str | None, str | None]]
    pinned: list[str]
    dropped: dict[str, tuple[int, int]]  # rule -> documents, bytes
    alone: dict[str, tuple[int, int]]
    without: dict[str, int]
    left: dict[str, tuple[int, int, int]]  # split -> repositories, documents, bytes


def expected_selection(corpus: Path, config: SelectionConfig, pinned: list[str] = ()) -> Expected | None:
    """None where nothing is left, or one side would have no repository."""
    with duckdb.connect() as database:
        conditions = config.conditions({})
        words = {word for rule in conditions for word in rule.words()} | set(config.annotations())
        read = [name for name in annotation_names(corpus) if name in words]
        _decide(database, corpus, conditions, read)
        if not database.execute("SELECT 1 FROM left_over LIMIT 1").fetchall():
            return None
        families = []
        if "repository_dedup" in read:
            families = database.execute(
                "SELECT DISTINCT repository, family, duplicate_of IS NULL FROM documents "
                "JOIN repository_dedup USING (_shard, _row) WHERE family IS NOT NULL"
            ).fetchall()
        names = [name for (name,) in database.execute("SELECT DISTINCT repository FROM left_over").fetchall()]
        held, pins = expected_sides(names, families, config.held_out, list(pinned))
        if held is None:
            return None
        database.execute("CREATE TABLE held (repository VARCHAR)")
        database.executemany("INSERT INTO held VALUES (?)", [[name] for name in [*held, ""]])
        return Expected(pinned=pins, **_sides(database, conditions))


def expected_sides(
    names: list[str], families: list[tuple[str, str, bool]], config: HeldOut, pinned: list[str]
) -> tuple[set[str] | None, list[str]]:
    """Those of `names` that are held out (None: one side would be empty), and the pinned. By sets, one by one."""
    groups: list[set[str]] = []  # of repositories and "\0family"s
    for repository, family, _ in families:
        joined = {repository, f"\0{family}"}
        groups, apart = [group for group in groups if not group & joined], [group for group in groups if group & joined]
        groups.append(joined.union(*apart))
    groups = [{name for name in group if not name.startswith("\0")} for group in groups]
    in_family = set().union(*groups)
    groups += [{name} for name in names if name not in in_family]
    kept = {repository for repository, _, keeps in families if keeps}
    hashes = {name: hashlib.sha256(f"{config.seed}:{name}".encode()).hexdigest() for name in {*names, *in_family}}
    pins, left = set(pinned) if config.fraction else set(), set(names)

    def is_held(group: set[str]) -> bool:
        deciding = [name for name in group if name not in in_family or name in kept]
        return bool(group & pins) or any(config.holds_out(name) for name in deciding)

    count = sum(len(group & left) for group in groups if is_held(group))
    others = [group for group in groups if not is_held(group) and group & left]
    if config.fraction:
        for group in sorted(others, key=lambda group: min(map(hashes.get, group))):
            if count >= config.minimum_repositories:
                break
            count += len(group & left)
            pins |= group
    held = {name for group in groups if is_held(group) for name in group}
    if config.fraction:
        pins |= held & in_family
    if held >= left or (config.fraction and len(held & left) < config.minimum_repositories):
        return None, []
    return held & left, sorted(pins)


def _decide(database: duckdb.DuckDBPyConnection, corpus: Path, conditions: list[Any], read: list[str]) -> None:
    shards = list_shards(corpus)
    add_shards_view(database, "documents", shards, ", ".join(METADATA_COLUMNS))
    joined = "documents"
    for name in read:
        paths = [annotation_directory(corpus, name) / shard.name for shard in shards]
        columns = [f'"{column}"' for column in read_parquet_schema(paths[0]).names if column != "id"]
        add_shards_view(database, name, paths, ", ".join(columns))
        joined += f' LEFT JOIN "{name}" USING (_shard, _row)'
    columns = ["_shard", "_row", *(f"documents.{name}" for name in ("id", "repository", "language", "size_bytes"))]
    exact, near = (name in read for name in ("exact_dedup", "near_dedup"))
    columns.append(f"{'exact_dedup.duplicate_of' if exact else 'NULL::VARCHAR'} AS _equal_to")
    columns.append(f"{'near_dedup.cluster' if near else 'NULL::VARCHAR'} AS _cluster")
    for k, rule in enumerate(conditions):
        if rule.number:
            columns.append(f"{rule.number} AS number_{k}")
        if rule.drops:
            columns.append(f"coalesce(({rule.drops})::BOOLEAN, false) AS alone_{k}, alone_{k} AS drops_{k}")
        else:
            share = rule.shares.sql(lambda share: f"{Decimal(repr(share)):f}")
            columns.append(f"({rule.per})::VARCHAR AS per_{k}, {share} AS share_{k}")
    database.execute(f"CREATE TABLE judged AS SELECT {', '.join(columns)} FROM {joined}")
    for k, rule in enumerate(conditions):
        if not rule.drops:
            _take_lowest(database, k)
    cases = " ".join(f"WHEN drops_{k} THEN '{rule.name}'" for k, rule in enumerate(conditions))
    dropped_by = f"CASE {cases} END" if cases else "NULL::VARCHAR"
    database.execute(f"CREATE TABLE decided AS SELECT *, {dropped_by} AS dropped_by FROM judged")
    database.execute("CREATE VIEW left_over AS FROM decided WHERE dropped_by IS NULL")


def _take_lowest(database: duckdb.DuckDBPyConnection, k: int) -> None:
    before = " OR ".join(f"drops_{earlier}" for earlier in range(k)) or "false"

    def lowest(group: str) -> str:
        place = f"row_number() OVER (PARTITION BY {group} ORDER BY number_{k}, id)"
        return f"{place} <= floor(count(*) OVER (PARTITION BY {group}) * share_{k})"

    database.execute(
        f"CREATE TABLE ranked AS SELECT _shard, _row, {lowest(f'per_{k}')} AS alone_{k}, "
        f"NOT gone AND {lowest(f'per_{k}, gone')} AS drops_{k} "
        f"FROM (SELECT *, {before} AS gone FROM judged WHERE number_{k} IS NOT NULL)"
    )
    database.execute(
        f"CREATE TABLE more AS SELECT judged.*, coalesce(alone_{k}, false) AS alone_{k}, "
        f"coalesce(drops_{k}, false) AS drops_{k} FROM judged LEFT JOIN ranked USING (_shard, _row)"
    )
    database.execute("DROP TABLE judged; DROP TABLE ranked; ALTER TABLE more RENAME TO judged")


def _sides(database: duckdb.DuckDBPyConnection, conditions: list[Any]) -> dict[str, Any]:
    database.execute("CREATE VIEW left_with_side AS SELECT *, repository IN (FROM held) AS held_out FROM left_over")
    database.execute(
        """CREATE TABLE clustered AS SELECT one.id, held_out, coalesce(one._cluster, kept._cluster, kept.id, one.id) AS
        cluster FROM left_with_side AS one LEFT JOIN decided AS kept ON kept.id = one._equal_to"""
    )
    database.execute(
        f"""UPDATE decided SET dropped_by = '{BOTH}' WHERE id IN (SELECT id FROM clustered WHERE held_out AND
        cluster IN (SELECT cluster FROM clustered WHERE NOT held_out))"""
    )
    amount = "count(*), coalesce(sum(size_bytes), 0)::BIGINT"
    split = "if(held_out, 'held_out', 'train')"

    def of(query: str) -> dict[str, tuple[int, ...]]:
        return {name: tuple(numbers) for name, *numbers in database.execute(query).fetchall()}

    ((_, *alone),) = [[None]] if not conditions else database.execute(
        "SELECT 0, " + ", ".join(f"[count(*) FILTER (alone_{k}), coalesce(sum(size_bytes) FILTER (alone_{k}), 0)]"
                                 for k in range(len(conditions))) + " FROM decided"
    ).fetchall()  # fmt: skip
    numbered = [(k, rule.name) for k, rule in enumerate(conditions) if rule.number]
    return {
        "rows": database.execute(
            "SELECT id, CASE WHEN dropped_by IS NULL THEN if(repository IN (FROM held), 'held_out', 'train') END, "
            "dropped_by FROM decided ORDER BY _shard, _row"
        ).fetchall(),
        "dropped": of(f"SELECT dropped_by, {amount} FROM decided WHERE dropped_by IS NOT NULL GROUP BY 1"),
        "alone": {rule.name: tuple(map(int, found)) for rule, found in zip(conditions, alone, strict=True)},
        "without": {name: database.execute(f"SELECT count(*) FROM decided WHERE number_{k} IS NULL").fetchone()[0]
                    for k, name in numbered},
        "left": of(f"SELECT {split}, count(DISTINCT repository), {amount} FROM left_with_side GROUP BY 1"),
    }  # fmt: skip
