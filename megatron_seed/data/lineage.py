"""From samples back to the files that their tokens come from."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError

_COLUMNS = ["source", "repository", "path", "fim"]


@dataclass(frozen=True)
class Traced:
    """A run of tokens of one document in one sample."""

    sample: int
    blend_source: str
    epoch: int
    document: int
    """Its number in the build."""
    first_token: int
    """Counted in the document."""
    tokens: int
    fim: bool | None = None
    source: str | None = None
    repository: str | None = None
    path: str | None = None
    """Where the text came from; None for a build without provenance."""


def documents_of(data: PhaseData, samples: Iterable[int]) -> Iterator[Traced]:
    """The documents that samples (numbered as in `data`) are made of, in their order.

    Raises SeedError for a provenance file that cannot be read.
    """
    files: dict[Path, _Provenance | None] = {}
    for sample in samples:
        stream, pieces = data.pieces(sample)
        for piece in pieces:
            prefix = stream.builds[piece.epoch % len(stream.builds)].prefix
            if prefix not in files:
                path = Path(f"{prefix}.provenance.parquet")
                files[prefix] = _Provenance(path) if path.is_file() else None
            provenance = files[prefix]
            found = provenance.row(piece.document) if provenance else {}
            yield Traced(sample, stream.name, piece.epoch, piece.document, piece.first, piece.tokens, **found)


class _Provenance:
    """Rows of a build's provenance file; of a large one only those parts are read that are asked for."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise SeedError(f"{path}: reading it needs pyarrow: pip install -e '.[data]' in the checkout") from None
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise SeedError(f"{path}: not a parquet file that can be read: {error}") from None
        self._path = path
        metadata = self._file.metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(rows)]
        self._group = functools.lru_cache(maxsize=8)(self._read_group)

    def row(self, document: int) -> dict[str, Any]:
        group = bisect.bisect_right(self._starts, document) - 1
        if group >= len(self._starts) - 1:
            raise SeedError(f"{self._path}: has {self._starts[-1]} rows, and none for document {document}")
        return self._group(group).slice(document - self._starts[group], 1).to_pylist()[0]

    def _read_group(self, group: int) -> Any:
        return self._file.read_row_group(group, columns=_COLUMNS)
