"""Shard function: the repositories that begin in one documents shard, as documents of another corpus."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import Document, DocumentWriter
from data_prep.errors import DataError
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.redaction import redact
from data_prep.repositories.assemble import Part, assemble
from data_prep.repositories.files import File
from data_prep.repositories.settings import RepositorySettings
from data_prep.shards import write_atomic
from data_prep.storage import open_parquet, read_parquet
from tokenizer.encode import Encoder

COMPOSITION = pa.schema(
    [
        pa.field("document", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("offset_bytes", pa.int64(), nullable=False),
        pa.field("in_cycle", pa.bool_(), nullable=False),
        pa.field("needs", pa.list_(pa.string()), nullable=False),
    ]
)
_DOCUMENT_COLUMNS = ["id", "language", "licence_file", "repository_licence", "stars", "text"]
_SAID = ("imports", "names", "declares")
_KEPT_GROUPS = 3  # row groups of texts that are held for the next repository


@dataclass(frozen=True)
class Place:
    """A shard of the corpus with what was said of it."""

    documents: Path
    selected: Path
    imports: Path


@dataclass(frozen=True)
class Work:
    """What the strings of one shard are made of; `places`: index of a shard -> where it lies."""

    table: Path
    places: Mapping[int, Place]
    settings: RepositorySettings
    composition: Path
    tokenizer: Path | None
    roles: tuple[tuple[str, str], ...] = ()


def write_strings(stream: BinaryIO, work: Work) -> dict[str, Any]:
    """Writes the documents of one shard to `stream`, and beside them what each is composed of."""
    writer, reader = DocumentWriter(stream), _Reader(work.places)
    counts: Counter[str] = Counter()
    languages: dict[str, Counter[str]] = {}
    sources: dict[str, Counter[str]] = {}
    composed: list[pa.Table] = []
    count = _counter(work)
    for (source, repository), rows in _repositories(work.table):
        found = reader.read([(row["shard"], row["row"]) for row in rows])
        files = [
            File(row["path"], one["language"], *(one[name] or () for name in _SAID))
            for row, one in zip(rows, found, strict=True)
        ]
        texts = [one["text"] for one in found]
        key = f"{source}/{repository}"
        parts, imports = assemble(files, texts, repository, key, work.settings, count)
        counts.update(repositories=1, cut=len(parts) > 1, files=len(files), unread=sum(one["failed"] for one in found))
        counts.update(asdict(imports))
        for number, part in enumerate(parts):
            row = _document(source, repository, number, len(parts), part, files, found).row()
            writer.add(row)
            composed.append(_composition(row["id"], part, files, found))
            for tally, name in ((languages, row["language"]), (sources, source)):
                tally.setdefault(name, Counter()).update(documents=1, text_bytes=row["size_bytes"])
    writer.close()
    table = pa.concat_tables(composed) if composed else COMPOSITION.empty_table()
    digest = write_atomic(work.composition, lambda file: pq.write_table(table, file, compression="zstd"))
    return {
        "rows": writer.rows,
        "text_bytes": writer.text_bytes,
        "counts": dict(counts),
        "languages": {name: dict(languages[name]) for name in sorted(languages)},
        "sources": {name: dict(sources[name]) for name in sorted(sources)},
        "files": {f"../{work.composition.parent.name}/{work.composition.name}": asdict(digest)},
    }


def _counter(work: Work) -> Callable[[Sequence[str]], Sequence[int]]:
    """What says how many tokens each of some texts has."""
    if work.tokenizer is None:
        return lambda texts: [int(np.ceil(len(text.encode()) / work.settings.bytes_per_token)) for text in texts]
    encoder = _encoder(work.tokenizer, work.roles)
    return lambda texts: np.diff(encoder.encode_batch(list(texts))[1]).tolist()


@functools.lru_cache(maxsize=1)
def _encoder(path: Path, roles: tuple[tuple[str, str], ...]) -> Encoder:
    return Encoder.load(path, dict(roles) or None)


def _repositories(table: Path) -> Iterator[tuple[tuple[str, str], list[dict[str, Any]]]]:
    """(source, repository) and the rows of its files, in the order of their paths."""
    rows = (row for batch in read_parquet(table, use_threads=False).to_batches(4096) for row in batch.to_pylist())
    for name, group in groupby(rows, key=lambda row: (row["source"], row["repository"])):
        yield name, list(group)


def _document(
    source: str,
    repository: str,
    number: int,
    count: int,
    part: Part,
    files: Sequence[File],
    found: Sequence[Mapping[str, Any]],
) -> Document:
    indices = [member.index for member in part.members]
    sizes: Counter[str] = Counter()
    for index in indices:
        sizes[files[index].language] += len(found[index]["text"])

    def common(name: str) -> Any:
        values = {found[index][name] for index in indices}
        return values.pop() if len(values) == 1 else None

    stars = [found[index]["stars"] for index in indices if found[index]["stars"] is not None]
    return Document(
        source,
        repository,
        f"part-{number + 1:05d}-of-{count:05d}",
        min(sizes, key=lambda language: (-sizes[language], language)),
        part.text,
        licence_file=common("licence_file"),
        repository_licence=common("repository_licence"),
        stars=max(stars, default=None),
    )


def _composition(document: str, part: Part, files: Sequence[File], found: Sequence[Mapping[str, Any]]) -> pa.Table:
    rows = [
        {
            "document": document,
            "place": place,
            "id": found[member.index]["id"],
            "path": files[member.index].path,
            "language": files[member.index].language,
            "offset_bytes": member.offset_bytes,
            "in_cycle": member.in_cycle,
            "needs": [found[other]["id"] for other in member.needs],
        }
        for place, member in enumerate(part.members)
    ]
    return pa.Table.from_pylist(rows, schema=COMPOSITION)


class _Reader:
    """Reads documents with what was said of them; the row groups and small tables read last stay in memory."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self.places = places
        self._group = functools.lru_cache(_KEPT_GROUPS)(self._read_group)
        self._about = functools.lru_cache(4)(self._read_about)

    def read(self, where: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """A dict for each (shard, row): id, text as it is trained on, language, imports, names, declares, failed."""
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for shard, of_shard in groupby(sorted(where), key=lambda place: place[0]):
            starts, said, spans, ids = self._about(shard)
            rows = np.array([row for _, row in of_shard])
            groups = np.searchsorted(starts, rows, side="right") - 1
            for group in np.unique(groups):
                chosen = rows[groups == group]
                texts = self._group(shard, int(group)).take(pa.array(chosen - starts[group])).to_pylist()
                about = said.take(pa.array(chosen)).to_pylist()
                for row, document, entry in zip(chosen.tolist(), texts, about, strict=True):
                    if document["id"] != entry["id"] or document["id"] != ids[row].as_py():
                        raise DataError(f"{self.places[shard].imports} has not the rows of its documents; run it again")
                    if spans is not None:
                        document["text"] = redact(document["text"], spans[row].as_py())
                    found[shard, row] = {**document, **entry, "failed": entry["failed"] is not None}
        return [found[place] for place in where]

    def _read_about(self, shard: int) -> tuple[np.ndarray, pa.Table, Any, Any]:
        place = self.places[shard]
        with open_parquet(place.documents) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        said = read_parquet(place.imports, ["id", *_SAID, "failed"], use_threads=False)
        selected = read_parquet(place.selected, use_threads=False)
        if not sum(sizes) == said.num_rows == selected.num_rows:
            raise DataError(f"{place.selected} has not the rows of {place.documents}; run `data select` again")
        spans = selected[REDACTIONS] if REDACTIONS in selected.column_names else None
        return np.cumsum([0, *sizes[:-1]]), said, spans, selected["id"]

    def _read_group(self, shard: int, group: int) -> pa.Table:
        with open_parquet(self.places[shard].documents, pre_buffer=False) as file:
            return file.read_row_group(group, columns=_DOCUMENT_COLUMNS, use_threads=False)
