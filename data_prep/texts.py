"""Texts of a selection, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.documents import list_shards
from data_prep.errors import DataError

_ROWS = 256


def selected_texts(corpus: Path, selection: str, split: str) -> Iterator[str]:
    """Texts of one split, in the order of the documents; some hundred in memory at a time. Raises `DataError`."""
    for shard in list_shards(corpus):
        chosen = corpus / "selections" / selection / shard.name
        if not chosen.is_file():
            raise DataError(f"{chosen} is missing; run `data select` again")
        splits = iter(pq.read_table(chosen, columns=["split"])["split"].to_pylist())
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(_ROWS, columns=["text"]):
                for text in batch["text"].to_pylist():
                    if next(splits) == split:
                        yield text
