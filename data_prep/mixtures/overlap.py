"""Documents that two categories share, and documents of repositories that are held out, by the builds' provenance."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from data_prep.database import open_database
from data_prep.errors import DataError
from data_prep.mixtures.builds import Build, read_build
from data_prep.mixtures.plan import Plan
from data_prep.storage import as_path, is_remote


@dataclass(frozen=True)
class Overlap:
    one: str
    other: str
    documents: int
    """That both have."""
    smaller: int
    """Documents of the category that has fewer."""


def check_overlaps(planned: Plan, scratch: Path, workers: int = 1) -> list[Overlap]:
    """Counts, for any two categories of a phase, the documents (by id) that both read; 0 are left out.

    Raises `DataError` when a category trains on a repository of which a held-out build beside its builds, or beside
    those of another category, has documents. Builds without provenance (made elsewhere) are passed over.
    """
    builds: dict[str, Build] = {}
    pairs: dict[tuple[str, str], None] = {}
    for phase in planned.phases:
        for entry in phase.entries:
            builds.setdefault(entry.category, entry.builds[0])
        pairs |= dict.fromkeys(itertools.combinations([entry.category for entry in phase.entries], 2))
    known = {name: path for name, build in builds.items() if (path := _provenance(build.prefix))}
    held_out = list(_held_out_beside(builds.values()))
    with open_database(scratch, workers) as database:
        for number, path in enumerate(known.values()):
            database.execute(
                f"CREATE TABLE category_{number} AS SELECT DISTINCT id, repository FROM read_parquet(?)",
                [str(path)],
            )
        tables = {name: f"category_{number}" for number, name in enumerate(known)}
        _refuse_leaks(database, tables, held_out)
        counted = [_count(database, tables, pair) for pair in pairs if set(pair) <= set(tables)]
    return [overlap for overlap in counted if overlap.documents]


def describe(overlaps: Sequence[Overlap]) -> list[str]:
    if not overlaps:
        return ["no document is in two categories of a phase"]
    return [
        f"{o.one} and {o.other} share {o.documents:,} documents, {100 * o.documents / o.smaller:.3g} % of the smaller: "
        "these are read as often as both say together"
        for o in overlaps
    ]


def _provenance(prefix: str) -> Path | None:
    path = as_path(f"{prefix}.provenance.parquet")
    if is_remote(path):
        raise DataError(f"{path}: documents are compared on a disk; copy the provenance files there")
    return path if path.is_file() else None


def _held_out_beside(builds: Iterator[Build]) -> Iterator[Path]:
    for folder in dict.fromkeys(as_path(build.prefix).parent for build in builds):
        for manifest in sorted(folder.glob("*.manifest.json")):
            build = read_build(str(manifest).removesuffix(".manifest.json"))
            if build.held_out and (path := _provenance(build.prefix)):
                yield path


def _refuse_leaks(database: duckdb.DuckDBPyConnection, tables: Mapping[str, str], held_out: Sequence[Path]) -> None:
    if not held_out:
        return
    database.execute(
        "CREATE TABLE held_out AS SELECT DISTINCT repository FROM read_parquet(?)", [list(map(str, held_out))]
    )
    for name, table in tables.items():
        rows = database.execute(
            f"SELECT count(*), min(repository) FROM {table} SEMI JOIN held_out USING (repository)"
        ).fetchall()
        if rows[0][0]:
            raise DataError(
                f"category {name}: {rows[0][0]:,} of its documents are of repositories that are held out, such as "
                f"{rows[0][1]}; select it with the same held_out seed and fraction as the others, and build it again"
            )


def _count(database: duckdb.DuckDBPyConnection, tables: Mapping[str, str], pair: tuple[str, str]) -> Overlap:
    one, other = (tables[name] for name in pair)
    ((shared,),) = database.execute(f"SELECT count(*) FROM {one} SEMI JOIN {other} USING (id)").fetchall()
    sizes = [database.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] for table in (one, other)]
    return Overlap(*pair, shared, min(sizes))
