"""Texts of a selection, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.redaction import redact
from data_prep.selection.places import selection_shard
from data_prep.storage import open_parquet, read_parquet

_ROWS = 256


def selected_texts(corpus: Path, selection: str, split: str) -> Iterator[str]:
    """Texts of one split, redacted, in the order of the documents; some hundred in memory. Raises `DataError`."""
    for shard in list_shards(corpus):
        chosen = selection_shard(corpus, selection, shard)
        if not chosen.is_file():
            raise DataError(f"{chosen} is missing; run `data select` again")
        rows = read_parquet(chosen)
        redactions = rows[REDACTIONS].to_pylist() if REDACTIONS in rows.column_names else [None] * rows.num_rows
        decisions = zip(rows["split"].to_pylist(), redactions, strict=True)
        with open_parquet(shard) as file:
            for batch in file.iter_batches(_ROWS, columns=["text"]):
                for text in batch["text"].to_pylist():
                    side, spans = next(decisions)
                    if side == split:
                        yield redact(text, spans)
