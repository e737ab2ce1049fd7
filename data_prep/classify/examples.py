"""Texts of labelled documents: in the order of the shards, or shuffled by a hash, without holding them in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.documents import read_rows

_ROWS = 256
COLUMNS = ("_shard", "_row", "repository", "label", "key")


def labelled_texts(
    database: duckdb.DuckDBPyConnection, shards: Sequence[Path], sides: Sequence[int], characters: int
) -> Iterator[pa.Table]:
    """`COLUMNS` of the table `chosen` and `text` (its first `characters`), of some sides, in the order of documents.

    A row group at a time, and only those that hold a labelled document.
    """
    wanted = f"FROM chosen WHERE side IN ({', '.join(map(str, sides))})"
    for (index,) in database.execute(f"SELECT DISTINCT _shard {wanted} ORDER BY 1").fetchall():
        rows = database.sql(f"SELECT {', '.join(COLUMNS)} {wanted} AND _shard = {index} ORDER BY _row").to_arrow_table()
        start = 0
        for found, documents in read_rows(shards[index], rows["_row"].to_numpy(), ["text"]):
            cut = pc.utf8_slice_codeunits(documents["text"], 0, characters)
            yield rows.slice(start, len(found)).append_column("text", cut)
            start += len(found)


def shuffled_texts(
    database: duckdb.DuckDBPyConnection, shards: Sequence[Path], side: int, characters: int
) -> Iterator[tuple[str, str]]:
    """(text, label) of one side in the order of their hashes; the database sorts them on disk."""
    database.execute("CREATE TABLE texts (key VARCHAR, label VARCHAR, text VARCHAR)")
    for table in labelled_texts(database, shards, [side], characters):
        database.register("_rows", table.select(["key", "label", "text"]))
        database.execute("INSERT INTO texts FROM _rows")
        database.unregister("_rows")
    for batch in database.sql("SELECT text, label FROM texts ORDER BY key").to_arrow_reader(_ROWS):
        yield from zip(batch["text"].to_pylist(), batch["label"].to_pylist(), strict=True)
    database.execute("DROP TABLE texts")
