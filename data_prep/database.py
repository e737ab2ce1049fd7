"""DuckDB over the shards of a corpus: bounded memory, spilling beside the corpus, nothing read from the network."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards import read_manifest
from data_prep.storage import each, is_remote, open_parquet, read_parquet, scratch_folder

WORK_FOLDER = ".work"


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
    paths = ", ".join(f"'{_quoted(shard)}'" for shard in shards)
    connection.execute(
        f'CREATE VIEW "{view}" AS SELECT {columns}, _shard, file_row_number AS _row '
        f'FROM read_parquet([{paths}], filename = true, file_row_number = true) JOIN "{table}" ON filename = _path'
    )


def _local_copies(connection: duckdb.DuckDBPyConnection, view: str, shards: Sequence[Path]) -> list[Path]:
    ((database,),) = connection.execute("SELECT path FROM duckdb_databases() WHERE NOT internal").fetchall()
    folder = Path(database).parent / view
    folder.mkdir()

    def copy(shard: Path) -> Path:
        with open_parquet(shard) as file:
            table = file.read([name for name in file.schema_arrow.names if name != "text"])
        pq.write_table(table, folder / shard.name)
        return folder / shard.name

    return each(copy, shards, shards[0])


def _quoted(path: Path) -> str:
    if any(character in str(path) for character in "*?["):
        raise DataError(f"{path}: the path of a corpus must not contain *, ? or [")
    return str(path).replace("'", "''")


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
