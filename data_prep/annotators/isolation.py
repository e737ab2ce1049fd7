"""An annotator in a process of its own: a document that crashes or hangs it costs that document, never the run.

The process reads documents itself, batch by batch, as it is told. When it dies or a batch takes too long, it is started
anew and does that batch one document at a time, so the documents that are to blame are found and named. It ends with
the process that started it, however that ends.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_prep.annotators.base import Annotator, AnnotatorSpec, schema_of
from data_prep.errors import DataError
from data_prep.storage import open_parquet

_PR_SET_PDEATHSIG = 1
_LAST_WORDS_S = 2.0  # between the end of a process's connection and its own
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from data_prep.annotators.isolation import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


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


class _LostError(Exception):
    """The process died or took too long; the message says which, in words."""


class IsolatedAnnotator:
    """An annotator in a process of its own, started again whenever it is lost.

    Raises `DataError` when it cannot be started.
    """

    def __init__(self, spec: AnnotatorSpec, limits: IsolationLimits) -> None:
        self.spec, self.limits = spec, limits
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize | None = None
        self.schema: pa.Schema = self._start()

    def annotate(self, rows: Rows) -> tuple[pa.RecordBatch, list[str | None]]:
        """The annotator's columns for these rows, and for each row why there is no answer (None: there is one)."""
        count = rows.stop - rows.start
        try:
            batch, failure = self._ask(rows)
        except _LostError as lost:
            batch, failure = None, str(lost)
        if failure is None:
            return batch, [None] * count
        if count == 1:
            return _nothing(self.schema, 1), [failure]
        alone = [self.annotate(row) for row in rows.singly()]
        answers = pa.Table.from_batches([batch for batch, _ in alone]).combine_chunks().to_batches()[0]
        return answers, [failures[0] for _, failures in alone]

    def _ask(self, rows: Rows) -> tuple[pa.RecordBatch | None, str | None]:
        if self._process is None:
            self._start()
        try:
            self._connection.send(rows)
        except OSError:  # it died after its last answer
            self.close()
            self._start()
            self._connection.send(rows)
        return self._answer(self.limits.timeout_s)

    def _answer(self, timeout_s: float) -> tuple[Any, str | None]:
        try:
            if self._connection.poll(timeout_s):
                return self._connection.recv()
        except (EOFError, OSError):
            how = self._end_in_words()
            self.close()
            raise _LostError(how) from None
        self.close()
        raise _LostError(f"timed out after {timeout_s:g} s")

    def _end_in_words(self) -> str:
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"crashed (signal {-code})" if code < 0 else f"ended with exit code {code}"

    def _start(self) -> pa.Schema:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _COMMAND, json.dumps(sys.path), str(number), str(os.getpid())]
            # What an annotator prints must not mix with the output of the command that runs it.
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL, stdout=2)
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)
        try:
            self._connection.send(self.spec)
            schema, failure = self._answer(self.limits.start_timeout_s)
        except (OSError, _LostError) as error:
            failure = str(error)
        if failure is not None:
            self.close()
            raise DataError(f"annotator {self.spec.name} cannot be started: {failure}")
        return schema

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        if self._finalizer:
            self._finalizer()
        self._process = self._connection = self._finalizer = None


def _end(process: subprocess.Popen, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


def _nothing(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)


def serve(number: int, parent: int) -> None:
    """The life of the process: an annotator's specification, then rows in, (columns, failure) out, until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run decides what it means
    _die_with(parent)
    reader = _Reader()
    with Connection(number) as connection, contextlib.suppress(EOFError, OSError):
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


def _die_with(parent: int) -> None:
    """A process that hangs would outlive a killed run; the kernel ends it then (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
