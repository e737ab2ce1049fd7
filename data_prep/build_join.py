"""Joining a build's parts, in the order of the documents shards: those encoded now, and those of the build before.

Beside a build `NAME.parts.json` says which bytes of `NAME.bin` and which row group of its provenance are of which
shard, and what these were made from. When documents are added, parts made from the same are copied out of the build
that stands there instead of being encoded again. The file may be deleted; the next build then encodes everything.
"""

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.build_part import PROVENANCE_COLUMNS
from data_prep.errors import DataError
from data_prep.megatron_format import write_index, write_numbers
from data_prep.shards import write_atomic, write_json
from data_prep.storage import open_to_read, read_parquet

PROVENANCE = pa.schema(
    [
        ("document_index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("repository", pa.string()),
        ("path", pa.string()),
        ("fim", pa.bool_()),
        ("tokens", pa.int64()),
        ("size_bytes", pa.int64()),
    ]
)
LOSS_STARTS = ".loss_starts.npy"
_LOSS_START = pa.field("loss_start", pa.int32())  # of the provenance, where loss is on targets
_COPY_BYTES = 8 << 20
_TOTALS = {"tokens": "tokens", "size_bytes": "size_bytes", "fim_documents": "fim"}  # counter -> column


@dataclass(frozen=True)
class Part:
    """What a build holds of one shard: bytes [start, start + size) of a file of tokens for each span, and a table."""

    made_of: str
    documents: int
    tokens: Path | BinaryIO
    spans: tuple[tuple[int, int], ...]
    read_rows: Callable[[], pa.Table]
    """The columns of `PROVENANCE`, without document_index; with loss on targets also loss_start."""


def encoded_part(made_of: str, output: Path, manifest: Mapping[str, Any], variant: int) -> Part:
    """A part that `encode_shard` has written; `variant` is the index among those that it encoded."""
    segments = manifest["segments"]
    starts = itertools.accumulate(map(sum, segments), initial=0)
    spans = tuple(
        (start + sum(sizes[:variant]), sizes[variant]) for start, sizes in zip(starts, segments, strict=False)
    )

    def read_rows() -> pa.Table:
        table = read_parquet(output.with_suffix(".parquet"))
        own = {name: f"{name}_{variant}" for name in ("tokens", "fim", "loss_start")}
        renamed = {name: table[column] for name, column in own.items() if column in table.column_names}
        return pa.table({name: table[name] for name in PROVENANCE_COLUMNS} | renamed)

    return Part(made_of, manifest["rows"], output, spans, read_rows)


def earlier_parts(prefix: Path, manifest: Mapping[str, Any], stack: ExitStack) -> dict[str, Part]:
    """made_of -> part, of the build that `manifest` describes; the files stay open while new ones take their place."""
    try:
        stored = json.loads(parts_path(prefix).read_bytes())
        if stored["inputs"] != manifest["inputs"]:
            return {}
        listed = [(str(made_of), int(documents), int(size)) for made_of, documents, size in stored["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    files = (_beside(prefix, suffix) for suffix in (".bin", ".provenance.parquet"))
    tokens, provenance = (stack.enter_context(open_to_read(path)) for path in files)
    rows = stack.enter_context(pq.ParquetFile(provenance, pre_buffer=False))
    groups = [rows.metadata.row_group(group).num_rows for group in range(rows.num_row_groups)]
    whole = sum(size for _, _, size in listed) == manifest["files"][f"{prefix.name}.bin"]["size_bytes"]
    if not whole or groups != [documents for _, documents, _ in listed if documents]:
        return {}
    found, start, group = {}, 0, 0
    for made_of, documents, size in listed:
        read_rows = _RowGroup(rows, group)
        found[made_of] = Part(made_of, documents, tokens, ((start, size),) if size else (), read_rows)
        start, group = start + size, group + bool(documents)
    return found


@dataclass(frozen=True)
class _RowGroup:
    file: pq.ParquetFile
    index: int

    def __call__(self) -> pa.Table:
        names = self.file.schema_arrow.names
        columns = [name for name in names if name != "document_index"]
        return self.file.read_row_group(self.index, columns=columns, use_threads=False)


def join_parts(
    prefix: Path, dtype: np.dtype, parts: Sequence[Part], inputs: str, loss_starts: bool = False
) -> dict[str, Any]:
    """Writes `.bin`, `.idx`, `.provenance.parquet` and `.parts.json`, with `loss_starts` also `.loss_starts.npy`;
    returns what a manifest says of them.

    Provenance, which parts of the build before are read from, is written after all that is made of it: in an object
    store an object that was replaced cannot be read on.
    """
    filled = [part for part in parts if part.documents]
    documents = sum(part.documents for part in filled)

    def column(name: str) -> Iterator[np.ndarray]:
        return (part.read_rows()[name].to_numpy() for part in filled)

    schema = PROVENANCE.append(_LOSS_START) if loss_starts else PROVENANCE
    masked = sum(int(some.sum(dtype=np.int64)) for some in column("loss_start")) if loss_starts else 0
    totals: dict[str, int] = {}
    writers: dict[str, Callable[[BinaryIO], Any]] = {
        ".bin": lambda stream: _copy_tokens(stream, filled),
        ".idx": lambda stream: write_index(stream, dtype, documents, lambda: column("tokens")),
    }
    if loss_starts:
        writers[LOSS_STARTS] = lambda stream: write_numbers(stream, documents, column("loss_start"))
    writers[".provenance.parquet"] = lambda stream: totals.update(_copy_provenance(stream, filled, schema))
    files = {}
    for suffix, writer in writers.items():
        path = _beside(prefix, suffix)
        files[path.name] = asdict(write_atomic(path, writer))
    listed = [[part.made_of, part.documents, sum(size for _, size in part.spans)] for part in parts]
    write_json(parts_path(prefix), {"inputs": inputs, "parts": listed})
    said = {"documents": documents, **totals, "files": files}
    if loss_starts:
        name = prefix.name + LOSS_STARTS
        said["loss"] = {"on": "target", "starts": name, "tokens": totals["tokens"] - masked}
    return said


def parts_path(prefix: Path) -> Path:
    return _beside(prefix, ".parts.json")


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _copy_tokens(stream: BinaryIO, parts: Sequence[Part]) -> None:
    for part in parts:
        with nullcontext(part.tokens) if hasattr(part.tokens, "read") else open_to_read(part.tokens) as tokens:
            for start, size in part.spans:
                _copy(stream, tokens, start, start + size)


def _copy(stream: BinaryIO, tokens: BinaryIO, start: int, end: int) -> None:
    while start < end:
        if isinstance(tokens, io.FileIO | io.BufferedReader):
            copied = os.sendfile(stream.fileno(), tokens.fileno(), start, end - start)
        else:  # of an object store
            tokens.seek(start)
            copied = stream.write(tokens.read(min(end - start, _COPY_BYTES)))
        if not copied:
            raise DataError(f"{tokens.name} is shorter than its manifest says; run the build again")
        start += copied


def _copy_provenance(stream: BinaryIO, parts: Sequence[Part], schema: pa.Schema) -> dict[str, int]:
    """One row group for each part."""
    documents, totals = 0, dict.fromkeys(_TOTALS, 0)
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for part in parts:
            rows = part.read_rows()
            index = pa.array(np.arange(documents, documents + rows.num_rows))
            rows = rows.append_column("document_index", index).select(schema.names).cast(schema)
            writer.write_table(rows, row_group_size=rows.num_rows)
            documents += rows.num_rows
            for total, name in _TOTALS.items():
                totals[total] += pc.sum(rows[name]).as_py()
    return totals
