"""A part of a build: the tokens of one documents shard.

What worker processes run. A text that several builds of a pass need is encoded once.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
from data_prep.structure import COLUMNS as STRUCTURE
from data_prep.structure import Piece, pieces_of
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES

PROVENANCE_COLUMNS = ["id", "source", "repository", "path", "size_bytes"]
LOSSES = ("all", "target")


@dataclass(frozen=True)
class Variant:
    """One build of a pass."""

    fim_rate: float
    epoch: int

    def name(self, split: str) -> str:
        """Base name of its files, such as `train-fim0.5-epoch0`."""
        return f"{split}-fim{self.fim_rate}-epoch{self.epoch}"


class Encoded(NamedTuple):
    """Documents of one variant."""

    tokens: np.ndarray
    """All of them, one document after the other."""
    lengths: list[int]
    split: list[bool]
    """Whether a document is split for fill-in-the-middle."""
    loss_starts: list[int]
    """A document's first token whose loss counts: that of its target, 0 where it has none."""


@dataclass(frozen=True)
class Plan:
    """All that the files of one pass depend on, besides the documents."""

    split: str
    variants: tuple[Variant, ...]
    seed: int
    encoder_path: Path
    encoder_digest: str
    roles: tuple[tuple[str, str], ...]
    loss: str = "all"


@functools.lru_cache(maxsize=1)
def _load_encoder(path: Path, digest: str, roles: tuple[tuple[str, str], ...]) -> Encoder:
    """Once for all shards of a worker; the digest sees to it that all workers, and a retried one, use the same."""
    encoder = Encoder.load(path, dict(roles))
    if encoder.digest != digest:
        raise DataError(f"{path} was changed while a build was using it; run the build again")
    return encoder


def encode_shard(
    stream: BinaryIO, plan: Plan, shard: Path, chosen: Path, table_path: Path, structure: Path | None = None
) -> dict[str, Any]:
    """Shard function: the tokens of one documents shard, for every variant of the plan.

    Batch by batch the tokens of one variant after the other; `segments[batch][variant]` counts their bytes. A table
    beside holds a row per document: the provenance, and for each variant its tokens, whether it was split and, with a
    plan's loss on targets, where that begins. `structure` is the annotation of the texts' headings and targets.
    """
    encoder = _load_encoder(plan.encoder_path, plan.encoder_digest, plan.roles)
    segments, tables = [], []
    for table, texts in selected_batches(shard, chosen, plan.split, structure):
        encoded = encode_documents(encoder, plan, table["id"].to_pylist(), texts)
        segments.append([stream.write(variant.tokens.data) for variant in encoded])
        for index, variant in enumerate(encoded):
            table = table.append_column(f"tokens_{index}", pa.array(variant.lengths, pa.int64()))
            table = table.append_column(f"fim_{index}", pa.array(variant.split, pa.bool_()))
            if plan.loss == "target":
                table = table.append_column(f"loss_start_{index}", pa.array(variant.loss_starts, pa.int32()))
        tables.append(table)
    rows = sum(table.num_rows for table in tables)
    files = {}
    if tables:
        digest = write_atomic(table_path, lambda file: pq.write_table(pa.concat_tables(tables), file))
        files[table_path.name] = asdict(digest)
    return {"rows": rows, "segments": segments, "files": files}


def selected_batches(
    shard: Path, chosen: Path, split: str, structure: Path | None = None
) -> Iterator[tuple[pa.Table, list[str | list[Piece]]]]:
    """The documents of a shard that are in a split, a row group (some megabytes of text) at a time.

    A table of their provenance, with the size of what is trained on, and their texts, redacted; with a `structure` the
    pieces of each. Raises `DataError` when the rows of the selection, or of the structure, are not those of the shard.
    """
    beside = {chosen: read_parquet(chosen, use_threads=False)}
    if structure:
        beside[structure] = read_parquet(structure, STRUCTURE, use_threads=False)
    start = 0
    with open_parquet(shard, pre_buffer=False) as file:
        for path, table in beside.items():
            if file.metadata.num_rows != table.num_rows:
                raise _other_rows(path, shard, path == chosen)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*PROVENANCE_COLUMNS, "text"], use_threads=False)
            rows = {path: its.slice(start, table.num_rows) for path, its in beside.items()}
            start += table.num_rows
            for path, its in rows.items():
                if not table["id"].equals(its["id"].cast(table["id"].type)):
                    raise _other_rows(path, shard, path == chosen)
            in_split = pc.equal(rows[chosen]["split"], split)
            kept = table.filter(in_split)
            redacts = REDACTIONS in rows[chosen].column_names
            spans = rows[chosen][REDACTIONS].filter(in_split).to_pylist() if redacts else [None] * kept.num_rows
            if not kept.num_rows:
                continue
            if structure:
                yield _in_pieces(kept, rows[structure].filter(in_split), spans)
            else:
                kept = redact_table(kept, spans) if redacts else kept
                yield kept.drop_columns("text"), kept["text"].to_pylist()


def _other_rows(path: Path, shard: Path, is_selection: bool) -> DataError:
    step = "`data select`" if is_selection else "the step that makes it"
    return DataError(f"{path} has not the rows of {shard}; run {step} again")


def _in_pieces(
    kept: pa.Table, structure: pa.Table, spans: Sequence[Sequence[Mapping[str, Any]] | None]
) -> tuple[pa.Table, list[list[Piece]]]:
    rows = zip(kept["text"].to_pylist(), structure.to_pylist(), spans, strict=True)
    pieces = [pieces_of(text, row, found) for text, row, found in rows]
    sizes = [sum(len(piece.text.encode()) for piece in its) for its in pieces]
    index = kept.schema.get_field_index("size_bytes")
    kept = kept.set_column(index, kept.schema.field(index), pa.array(sizes, kept.schema.field(index).type))
    return kept.drop_columns("text"), pieces


def encode_documents(
    encoder: Encoder, plan: Plan, ids: Sequence[str], texts: Sequence[str | Sequence[Piece]]
) -> list[Encoded]:
    """The documents of each variant. Every piece of text is encoded once, however many variants need it."""
    pieces: list[str] = []
    first_piece: dict[tuple[int, int | None], int] = {}  # (document, epoch it is split for) -> its first piece
    layouts = []
    for variant in plan.variants:
        layout = []
        for index, (document_id, text) in enumerate(zip(ids, texts, strict=True)):
            parts, split = _parts_of(plan, variant, document_id, text)
            key = (index, variant.epoch if split else None)
            if key not in first_piece:
                first_piece[key] = len(pieces)
                pieces.extend(part.text for part in parts)
            layout.append(_Laid(first_piece[key], [part.role for part in parts], _target_place(parts), split))
        layouts.append(layout)
    tokens, offsets = encoder.encode_batch(pieces)
    bounds = offsets.tolist()
    rows = [tokens[start:end] for start, end in itertools.pairwise(bounds)]
    return [_write_documents(encoder, rows, layout) for layout in layouts]


class _Laid(NamedTuple):
    """A document: its first piece, the special token before each, the first one of its target, and whether split."""

    first: int
    roles: list[str | None]
    target: int | None
    split: bool


def _parts_of(
    plan: Plan, variant: Variant, document_id: str, text: str | Sequence[Piece]
) -> tuple[Sequence[Piece], bool]:
    if not isinstance(text, str):
        return text, False
    split = None
    if variant.fim_rate:
        split = split_document(plan.seed, variant.epoch, document_id, text, variant.fim_rate)
    if split is None:
        return [Piece(None, text)], False
    return [Piece(role, part) for role, part in zip(FIM_ROLES, split, strict=True)], True


def _target_place(parts: Sequence[Piece]) -> int | None:
    return next((place for place, part in enumerate(parts) if part.is_target), None)


def _write_documents(encoder: Encoder, rows: Sequence[np.ndarray], layout: Sequence[_Laid]) -> Encoded:
    roles = {"eos", *(role for laid in layout for role in laid.roles if role)}
    markers = {role: np.array(encoder.special.require(role), encoder.dtype) for role in roles}
    chunks, lengths, loss_starts = [], [], []
    for laid in layout:
        length = loss_start = 0
        for place, role in enumerate(laid.roles):
            document = [markers[role]] if role else []
            # The token before a target's first piece says that it begins, and is given.
            if place == laid.target:
                loss_start = length + len(document)
            document.append(rows[laid.first + place])
            chunks += document
            length += sum(map(len, document))
        chunks.append(markers["eos"])
        lengths.append(length + 1)
        loss_starts.append(loss_start)
    return Encoded(np.concatenate(chunks), lengths, [laid.split for laid in layout], loss_starts)
