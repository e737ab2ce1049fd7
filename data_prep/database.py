"""DuckDB over the shards of a corpus: bounded memory, spilling beside the corpus, nothing read from the network."""

import contextlib
import difflib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import METADATA_COLUMNS
from data_prep.errors import DataError
from data_prep.shards import read_manifest
from data_prep.storage import each, is_remote, open_parquet, read_parquet, read_parquet_schema, scratch_folder

WORK_FOLDER = ".work"
_MADE_BY = {
    **dict.fromkeys(("exact_dedup", "near_dedup", "repository_dedup"), "data dedup"),
    "commits": "data commits",
    "high_quality": "data subset",
    "quality": "data score apply",
    "web": "data web",
}
_NO_TABLE = re.compile(r'Binder Error: Referenced table "(\w+)" not found')


@contextlib.contextmanager
def open_database(parent: Path, workers: int, memory_limit: str = "1GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """A scratch database in `parent/.work`, removed at the end (and at the start, if a killed run left one).

    Where the corpus is in an object store, it is in a temporary folder of this machine. Raises `DataError` where it
    cannot be written.
    """
    with scratch_folder(parent, WORK_FOLDER) as folder:
        config = {
            "threads": workers,
            "memory_limit": memory_limit,
            "temp_directory": str(folder / "spill"),
            "autoinstall_known_extensions": False,
        }
        try:
            with duckdb.connect(str(folder / "scratch.duckdb"), config=config) as connection:
                yield connection
        except (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException) as error:  # such as a full disk
            raise DataError(f"{folder}: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def open_shard(
    shard: Path, beside: Mapping[str, Path], memory_limit: str = "1GB"
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A database in memory over one documents shard and the tables beside it (view -> parquet); and SQL of all joined.

    The views are `documents`, without text, and those of `beside`, without ids; the caller has checked their names.
    Rows are joined by where they stand, which is the column `_row` of each.
    """
    with contextlib.ExitStack() as stack:
        if is_remote(shard):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="megatron-seed-")))
            copies = each(lambda path: _local_copy(path, folder / path.parent.name), [shard, *beside.values()], shard)
            shard, beside = copies[0], dict(zip(beside, copies[1:], strict=True))
        config = {"threads": 1, "memory_limit": memory_limit, "autoinstall_known_extensions": False}
        connection = stack.enter_context(duckdb.connect(config={**config, "temp_directory": ""}))
        tables = []
        for view, path, left_out in (("documents", shard, "text"), *((view, beside[view], "id") for view in beside)):
            names = ", ".join(f'"{name}"' for name in read_parquet_schema(path).names if name != left_out)
            connection.execute(
                f'CREATE VIEW "{view}" AS SELECT {names}, file_row_number AS _row '
                f"FROM read_parquet({_path(path)}, file_row_number = true)"
            )
            tables.append(f'"{view}"')
        yield connection, " POSITIONAL JOIN ".join(tables)


def add_shards_view(connection: duckdb.DuckDBPyConnection, view: str, shards: Sequence[Path], columns: str) -> None:
    """Defines `view` over parquet shards: `columns` (SQL), and where each row stands as `_shard` (index) and `_row`.

    `view` is an identifier that the caller has checked. Of shards in an object store all but the text is copied beside
    the scratch database first.
    """
    if shards and is_remote(shards[0]):
        shards = _local_copies(connection, view, shards)
    table = f"_shards_of_{view}"
    positions = pa.table(
        {"_path": [str(shard) for shard in shards], "_shard": pa.array(range(len(shards)), pa.int32())}
    )
    connection.register("_positions", positions)
    connection.execute(f'CREATE TABLE "{table}" AS FROM _positions')
    connection.unregister("_positions")
    paths = ", ".join(map(_path, shards))
    connection.execute(
        f'CREATE VIEW "{view}" AS SELECT {columns}, _shard, file_row_number AS _row '
        f'FROM read_parquet([{paths}], filename = true, file_row_number = true) JOIN "{table}" ON filename = _path'
    )


def _local_copies(connection: duckdb.DuckDBPyConnection, view: str, shards: Sequence[Path]) -> list[Path]:
    ((database,),) = connection.execute("SELECT path FROM duckdb_databases() WHERE NOT internal").fetchall()
    folder = Path(database).parent / view
    return each(lambda shard: _local_copy(shard, folder), shards, shards[0])


def _local_copy(shard: Path, folder: Path) -> Path:
    """All of a shard but its text."""
    with open_parquet(shard) as file:
        table = file.read([name for name in file.schema_arrow.names if name != "text"])
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / shard.name)
    return folder / shard.name


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def words_in(queries: Iterable[str]) -> set[str]:
    """The words of SQL: an annotation that is not among them is not asked for."""
    return {word for query in queries for word in re.findall(r"\w+", query)}


def _path(path: Path) -> str:
    if any(character in str(path) for character in "*?["):
        raise DataError(f"{path}: the path of a corpus must not contain *, ? or [")
    return literal(str(path))


def shard_tables(
    connection: duckdb.DuckDBPyConnection, query: str, shards: Sequence[Path]
) -> Iterator[tuple[Path, pa.Table]]:
    """Cuts the rows of `query`, which must come in the order of `_shard` and `_row`, into one table for each shard.

    The `id` column is compared with the shard's own: rows that stand beside the wrong document would go unnoticed.
    """
    reader = connection.sql(query).to_arrow_reader(65_536)
    pending = reader.schema.empty_table()
    batches = iter(reader)
    for shard in shards:
        rows = read_manifest(shard)["rows"]
        parts, have = [pending], pending.num_rows
        while have < rows:
            batch = next(batches, None)
            if batch is None:
                raise DataError(f"{shard}: holds fewer rows than its manifest says; run `data import` again")
            parts.append(pa.Table.from_batches([batch]))
            have += batch.num_rows
        table = pa.concat_tables(parts)
        pending = table.slice(rows)
        table = table.slice(0, rows).combine_chunks()
        if table["id"].to_pylist() != read_parquet(shard, ["id"])["id"].to_pylist():
            raise DataError(f"{shard}: its rows came back in another order; nothing was written for it")
        yield shard, table


def in_words(error: duckdb.Error, annotations: Sequence[str]) -> str:
    """What is wrong with a user's SQL over documents and these annotations, in a line."""
    if not (lacking := _NO_TABLE.match(str(error))):
        known = ", ".join(annotations) or "none"
        columns = ", ".join(METADATA_COLUMNS)
        return f"{str(error).splitlines()[0]} (columns: {columns}; annotations that it names: {known})"
    name = lacking.group(1)
    oracle = f"data oracle run ... {name.removeprefix('oracle_')}" if name.startswith("oracle_") else None
    step = oracle or _MADE_BY.get(name, f"data annotate ... {name}")
    near = difflib.get_close_matches(name, [*annotations, *_MADE_BY], 1)
    hint = f", or did you mean {near[0]!r}?" if near and near[0] != name else ""
    return f"there is no annotation {name!r}: `{step}` makes it{hint}"
