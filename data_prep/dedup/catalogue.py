"""The catalogue: what global steps ask about single documents, without their text.

For each documents shard `dedup/catalogue/<shard>.arrow` holds id, digest, size, stars, source and repository of every
row, and an order (the first 64 bits of the digest) that does not depend on where it stands. A task that knows a
position can look at that row alone. Beside it are runs (see `data_prep.partitions`) by digest, by id and by repository.
All of it depends on nothing but the shard, so only shards that changed are read again.
"""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.documents import list_shards
from data_prep.partitions import (
    Output,
    Runner,
    record_type,
    records,
    side_path,
    words_of,
    write_columns,
    write_side_run,
)
from data_prep.shards import ShardTask, fingerprint, finished_manifest, remove_shard
from data_prep.storage import read_parquet

FORMAT = "data_prep.catalogue/1"
ROW = record_type(row="<u4")
BY_DIGEST, BY_ID, BY_REPOSITORY = "digest.npy", "id.npy", "repository.npy"
_SIDES = (BY_DIGEST, BY_ID, BY_REPOSITORY)


def dedup_directory(corpus: Path) -> Path:
    """Where deduplication keeps what it need not compute again; it may be deleted at any time."""
    return corpus / "dedup"


def update_catalogue(corpus: Path, runner: Runner) -> Output:
    """Brings the catalogue up to date with the documents."""
    folder = dedup_directory(corpus) / "catalogue"
    shards = list_shards(corpus)
    keep_only(folder, {shard.stem for shard in shards})
    tasks = []
    for shard in shards:
        output = folder / f"{shard.stem}.arrow"
        made_of = fingerprint(FORMAT, finished_manifest(shard)["sha256"])
        tasks.append(ShardTask(output, made_of, write_catalogue, (output, shard)))
    return runner.run("catalogue", tasks)


def keep_only(folder: Path, stems: set[str]) -> None:
    """Removes what was made of shards that are no longer there."""
    for output in folder.glob("*.arrow"):
        if output.stem not in stems:
            remove_shard(output)
            for side in folder.glob(f"{output.stem}.*"):
                side.unlink()


def write_catalogue(stream: BinaryIO, output: Path, shard: Path) -> dict[str, Any]:
    """Shard function: one shard of the catalogue."""
    table = read_parquet(shard, ["id", "sha256", "size_bytes", "stars", "source", "repository"])
    digests = _from_hex(table["sha256"], 32)
    order = words_of(pa.chunked_array([digests]))[:, 0]
    catalogue = pa.table(
        {
            "order": pa.array(order),
            "id": _from_hex(table["id"], 16),
            "digest": digests,
            "size_bytes": table["size_bytes"],
            "stars": pc.fill_null(table["stars"], -1),
            "source": table["source"],
            "repository": table["repository"],
        }
    )
    write_columns(stream, catalogue)
    keys = (order, words_of(catalogue["id"])[:, 0], _repository_keys(table))
    rows = np.arange(table.num_rows)
    files: dict[str, Any] = {}
    for name, key in zip(_SIDES, keys, strict=True):
        files |= write_side_run(side_path(output, name), records(ROW, key=key, row=rows))
    return {"rows": table.num_rows, "files": files}


def hex_of(column: pa.ChunkedArray) -> pa.Array:
    """Binary values of a fixed width as lower-case hex; null stays null."""
    array = column.combine_chunks()
    values, width = array.drop_null(), 2 * array.type.byte_width
    data = words_of(pa.chunked_array([values])).astype(">u8").tobytes().hex().encode()
    ends = pa.py_buffer(np.arange(0, len(data) + 1, width, dtype=np.int32))
    texts = pa.StringArray.from_buffers(len(values), ends, pa.py_buffer(data))
    at = np.cumsum(array.is_valid().to_numpy(zero_copy_only=False)) - 1
    return texts.take(pa.array(at, mask=array.is_null().to_numpy(zero_copy_only=False)))


def _from_hex(column: pa.ChunkedArray, width: int) -> pa.Array:
    data = bytes.fromhex("".join(column.to_pylist()))
    return pa.Array.from_buffers(pa.binary(width), len(column), [None, pa.py_buffer(data)])


def _repository_keys(table: pa.Table) -> np.ndarray:
    """64 bits of a hash of each row's (source, repository)."""
    names = pc.binary_join_element_wise(table["source"], table["repository"], "\0").combine_chunks().dictionary_encode()
    hashes = [hashlib.sha256(name.encode()).digest()[:8] for name in names.dictionary.to_pylist()]
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64)[names.indices.to_numpy()]
