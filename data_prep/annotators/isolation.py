"""An annotator in a process of its own: a document that crashes or hangs it costs that document, never the run.

The process reads documents itself, batch by batch, as it is told. When it dies or a batch takes too long, it is started
anew and does that batch one document at a time, so the documents that are to blame are found and named. It ends with
the process that started it, however that ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_prep.annotators.base import Annotator, AnnotatorSpec, schema_of
from data_prep.errors import DataError
from data_prep.helper import Helper, LostHelperError
from data_prep.storage import open_parquet


@dataclass(frozen=True)
class IsolationLimits:
    """How long an annotator may take, and how much it is given at a time. The values are ours."""

    timeout_s: float = 20.0
    """Wall-clock time for a document alone, and for a batch before its documents are done one at a time."""
    start_timeout_s: float = 600.0
    """For importing the annotator, loading its models and the like."""
    batch_bytes: int = 1 << 20
    """Of text in a batch, unless one document is longer."""
    batch_rows: int = 256
    """Documents in a batch."""


class Rows(NamedTuple):
    """Rows `start` to `stop` of a row group of a documents shard."""

    shard: Path
    group: int
    start: int
    stop: int

    def singly(self) -> Iterator["Rows"]:
        return (self._replace(start=row, stop=row + 1) for row in range(self.start, self.stop))


class IsolatedAnnotator:
    """An annotator in a process of its own, started again whenever it is lost.

    Raises `DataError` when it cannot be started.
    """

    def __init__(self, spec: AnnotatorSpec, limits: IsolationLimits) -> None:
        self.spec, self.limits = spec, limits
        self._helper: Helper | None = None
        self.schema: pa.Schema = self._start()

    def annotate(self, rows: Rows) -> tuple[pa.RecordBatch, list[str | None]]:
        """The annotator's columns for these rows, and for each row why there is no answer (None: there is one)."""
        count = rows.stop - rows.start
        try:
            batch, failure = self._ask(rows)
        except LostHelperError as lost:
            self._helper = None
            batch, failure = None, str(lost)
        if failure is None:
            return batch, [None] * count
        if count == 1:
            return _nothing(self.schema, 1), [failure]
        alone = [self.annotate(row) for row in rows.singly()]
        answers = pa.Table.from_batches([batch for batch, _ in alone]).combine_chunks().to_batches()[0]
        return answers, [failures[0] for _, failures in alone]

    def _ask(self, rows: Rows) -> tuple[pa.RecordBatch | None, str | None]:
        if self._helper is None:
            self._start()
        try:
            self._helper.send(rows)
        except LostHelperError:  # it died after its last answer
            self._start()
            self._helper.send(rows)
        return self._helper.receive(self.limits.timeout_s)

    def _start(self) -> pa.Schema:
        self._helper = Helper("data_prep.annotators.isolation:serve")
        try:
            self._helper.send(self.spec)
            schema, failure = self._helper.receive(self.limits.start_timeout_s)
        except LostHelperError as error:
            failure = str(error)
        if failure is not None:
            self._helper.close()
            raise DataError(f"annotator {self.spec.name} cannot be started: {failure}")
        return schema


def _nothing(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)


def serve(connection: Connection) -> None:
    """The life of the process: an annotator's specification, then rows in, (columns, failure) out, until the end."""
    reader = _Reader()
    try:
        annotator = connection.recv().load()
        annotator.prepare()
        connection.send((schema_of(annotator), None))
    except Exception as error:
        connection.send((None, _in_words(error)))
        return
    while True:
        rows = connection.recv()
        try:
            answer = (_columns(annotator, reader.documents(rows, annotator.reads)), None)
        except Exception as error:
            answer = (None, _in_words(error))
        connection.send(answer)


def _in_words(error: Exception) -> str:
    text = " ".join(f"{error}".split())[:500]
    return text if isinstance(error, DataError) else f"{type(error).__name__}: {text}"


def _columns(annotator: Annotator, documents: list[dict[str, Any]]) -> pa.RecordBatch:
    """The annotator's answers. Raises `DataError` where they are not a value for each document and column."""
    schema = schema_of(annotator)
    found = annotator.annotate(documents)
    if set(found) != set(schema.names):
        raise DataError(f"columns {', '.join(schema.names)} are declared, {', '.join(map(str, found))} were made")
    arrays = []
    for field in schema:
        values = list(found[field.name])
        if len(values) != len(documents):
            raise DataError(f"column {field.name} has {len(values)} values for {len(documents)} documents")
        arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@dataclass
class _Reader:
    """Reads documents of a row group; keeps the last one, whose batches come one after the other."""

    key: tuple[Any, ...] = ()
    table: pa.Table | None = None

    def documents(self, rows: Rows, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        key = (rows.shard, rows.group, columns)
        if key != self.key:
            with open_parquet(rows.shard, pre_buffer=False) as file:
                self.table = file.read_row_group(rows.group, columns=list(columns), use_threads=False)
            self.key = key
        return self.table.slice(rows.start, rows.stop - rows.start).to_pylist()
