"""A part of a build: the tokens of one documents shard.

What worker processes run. A text that several builds of a pass need is encoded once.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.fim import split_document
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.redaction import redact_table
from data_prep.shards import write_atomic
from data_prep.storage import open_parquet, read_parquet
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES

PROVENANCE_COLUMNS = ["id", "source", "repository", "path", "size_bytes"]


@dataclass(frozen=True)
class Variant:
    """One build of a pass."""

    fim_rate: float
    epoch: int

    def name(self, split: str) -> str:
        """Base name of its files, such as `train-fim0.5-epoch0`."""
        return f"{split}-fim{self.fim_rate}-epoch{self.epoch}"


@dataclass(frozen=True)
class Plan:
    """All that the files of one pass depend on, besides the documents."""

    split: str
    variants: tuple[Variant, ...]
    seed: int
    encoder_path: Path
    encoder_digest: str
    roles: tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=1)
def _load_encoder(path: Path, digest: str, roles: tuple[tuple[str, str], ...]) -> Encoder:
    """Once for all shards of a worker; the digest sees to it that all workers, and a retried one, use the same."""
    encoder = Encoder.load(path, dict(roles))
    if encoder.digest != digest:
        raise DataError(f"{path} was changed while a build was using it; run the build again")
    return encoder


def encode_shard(stream: BinaryIO, plan: Plan, shard: Path, chosen: Path, table_path: Path) -> dict[str, Any]:
    """Shard function: the tokens of one documents shard, for every variant of the plan.

    Batch by batch the tokens of one variant after the other; `segments[batch][variant]` counts their bytes. A table
    beside holds a row per document: the provenance, and for each variant its tokens and whether it was split.
    """
    encoder = _load_encoder(plan.encoder_path, plan.encoder_digest, plan.roles)
    segments, tables = [], []
    for table in selected_batches(shard, chosen, plan.split):
        encoded = encode_documents(encoder, plan, table["id"].to_pylist(), table["text"].to_pylist())
        segments.append([stream.write(tokens.data) for tokens, _, _ in encoded])
        kept = table.select(PROVENANCE_COLUMNS)
        for index, (_, lengths, split) in enumerate(encoded):
            kept = kept.append_column(f"tokens_{index}", pa.array(lengths, pa.int64()))
            kept = kept.append_column(f"fim_{index}", pa.array(split, pa.bool_()))
        tables.append(kept)
    rows = sum(table.num_rows for table in tables)
    files = {}
    if tables:
        digest = write_atomic(table_path, lambda file: pq.write_table(pa.concat_tables(tables), file))
        files[table_path.name] = asdict(digest)
    return {"rows": rows, "segments": segments, "files": files}


def selected_batches(shard: Path, chosen: Path, split: str) -> Iterator[pa.Table]:
    """The documents of a shard that are in a split, redacted, a row group (some megabytes of text) at a time.

    Raises `DataError` when the selection's rows are not those of the shard.
    """
    selected = read_parquet(chosen, use_threads=False)
    start = 0
    with open_parquet(shard, pre_buffer=False) as file:
        if file.metadata.num_rows != selected.num_rows:
            raise DataError(f"{chosen} has not the rows of {shard}; run `data select` again")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*PROVENANCE_COLUMNS, "text"], use_threads=False)
            rows = selected.slice(start, table.num_rows)
            start += table.num_rows
            if not table["id"].equals(rows["id"].cast(table["id"].type)):
                raise DataError(f"{chosen} has not the rows of {shard}; run `data select` again")
            in_split = pc.equal(rows["split"], split)
            kept = table.filter(in_split)
            if REDACTIONS in rows.column_names:
                kept = redact_table(kept, rows[REDACTIONS].filter(in_split).to_pylist())
            if kept.num_rows:
                yield kept


def encode_documents(
    encoder: Encoder, plan: Plan, ids: Sequence[str], texts: Sequence[str]
) -> list[tuple[np.ndarray, list[int], list[bool]]]:
    """For each variant: the tokens of all documents, each document's number of them, and whether it was split.

    Every text is encoded once, however many variants need it.
    """
    pieces: list[str] = []
    first_piece: dict[tuple[int, int | None], int] = {}  # (document, epoch it is split for) -> its first piece
    layouts = []
    for variant in plan.variants:
        layout = []
        for index, (document_id, text) in enumerate(zip(ids, texts, strict=True)):
            parts = None
            if variant.fim_rate:
                parts = split_document(plan.seed, variant.epoch, document_id, text, variant.fim_rate)
            key = (index, None if parts is None else variant.epoch)
            if key not in first_piece:
                first_piece[key] = len(pieces)
                pieces.extend((text,) if parts is None else parts)
            layout.append((first_piece[key], parts is not None))
        layouts.append(layout)
    tokens, offsets = encoder.encode_batch(pieces)
    bounds = offsets.tolist()
    rows = [tokens[start:end] for start, end in itertools.pairwise(bounds)]
    return [_write_documents(encoder, rows, layout) for layout in layouts]


def _write_documents(
    encoder: Encoder, rows: Sequence[np.ndarray], layout: Sequence[tuple[int, bool]]
) -> tuple[np.ndarray, list[int], list[bool]]:
    def marker(role: str) -> np.ndarray:
        return np.array(encoder.special.require(role), encoder.dtype)

    eos = marker("eos")
    markers = [marker(role) for role in FIM_ROLES] if any(split for _, split in layout) else []
    chunks, lengths = [], []
    for piece, split in layout:
        if split:
            document = [chunk for i, sign in enumerate(markers) for chunk in (sign, rows[piece + i])]
        else:
            document = [rows[piece]]
        chunks += [*document, eos]
        lengths.append(sum(map(len, document)) + 1)
    return np.concatenate(chunks), lengths, [split for _, split in layout]
