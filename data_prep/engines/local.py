"""A pool of processes on this machine that knows which call each worker holds, so a killed worker costs one retry."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from data_prep.engines.base import Call
from data_prep.engines.calls import alone, answer, died, result_of
from data_prep.errors import DataError

ATTEMPTS = 2


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int | None = None  # of the call it holds
    common: tuple[Any, ...] = ()  # arguments that it was sent last


@dataclass(frozen=True)
class LocalEngine:
    """`workers` processes; with one worker, calls run in this process.

    Workers are started by `forkserver` (or `spawn`), never by a fork of this process, which may hold threads and locks.
    """

    workers: int = 1
    start_method: str = "forkserver"

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        if self.workers < 1:
            raise DataError(f"workers is {self.workers}; it must be at least 1")
        if self.workers == 1 or len(calls) <= 1:
            yield from ((index, result_of(call, answer(call))) for index, call in enumerate(calls))
            return
        yield from self._run_pool(calls)

    def _run_pool(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        context = multiprocessing.get_context(self.start_method)
        waiting = deque(range(len(calls)))
        deaths = [0] * len(calls)
        pool = [_start(context) for _ in range(min(self.workers, len(calls)))]
        left = len(calls)
        try:
            for worker in pool:
                _give(worker, waiting, calls)
            while left:
                for ready in wait([worker.connection for worker in pool]):
                    worker = next(w for w in pool if w.connection is ready)
                    index = worker.index
                    try:
                        given = worker.connection.recv()
                    except (EOFError, ConnectionResetError):
                        pool[pool.index(worker)] = self._replace(context, worker, calls, deaths, waiting)
                        continue
                    result = result_of(calls[index], given)
                    _give(worker, waiting, calls)
                    left -= 1
                    yield index, result
                pool = [worker for worker in pool if worker.index is not None or _retire(worker)]
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()
                worker.connection.close()

    def _replace(
        self, context: Any, dead: _Worker, calls: Sequence[Call], deaths: list[int], waiting: deque[int]
    ) -> _Worker:
        dead.process.join()
        dead.connection.close()
        deaths[dead.index] += 1
        if deaths[dead.index] >= ATTEMPTS:
            died(calls[dead.index], ATTEMPTS, _death(dead.process))
        waiting.appendleft(dead.index)
        worker = _start(context)
        _give(worker, waiting, calls)
        return worker


def _death(process: BaseProcess) -> str:
    code = process.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _start(context: Any) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: deque[int], calls: Sequence[Call]) -> None:
    worker.index = waiting.popleft() if waiting else None
    if worker.index is None:
        return
    # A worker that died just now is noticed when its answer is read; the call then goes to another.
    call = calls[worker.index]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if worker.common is not call.common:
            worker.connection.send(call.common)
            worker.common = call.common
        worker.connection.send(alone(call))


def _retire(worker: _Worker) -> bool:
    worker.connection.close()
    worker.process.join()
    return False


def _serve(connection: Connection) -> None:
    """The life of a worker: calls and what they have in common in, answers out, until the connection closes or the
    parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    common: tuple[Any, ...] = ()
    while True:
        try:
            sent = connection.recv()
        except (EOFError, OSError):  # the run has ended, or its process has
            return
        if isinstance(sent, Call):
            connection.send(answer(sent, common))
        else:
            common = sent


def _exit_with_parent() -> None:
    """A worker that outlived a killed run could overwrite what the next run writes."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
