"""Reading the next step's batches while this one is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megatron_seed.data.loader import Batch

Samples = tuple[int, int]
"""First sample of a step and how many it has."""


class Prefetch:
    """One step ahead, in a thread: a slow file system delays nobody until its data is needed."""

    def __init__(self, read: Callable[[int, int], Sequence[Batch]]) -> None:
        """`read(first_sample, size)` gives this rank's micro-batches."""
        self._read = read
        self._job: _Job | None = None

    def ask(self, samples: Samples) -> None:
        """Begin to read, unless these are being read already; forgets what was asked for before."""
        if self._job is None or self._job.samples != samples:
            self._job = _Job(samples)
            # A daemon: a read that never returns must not keep the process from ending.
            threading.Thread(target=self._work, args=(self._job,), name="prefetch", daemon=True).start()

    def take(self, timeout_s: float) -> Sequence[Batch] | None:
        """What was asked for last, None if it is not there in time; raises what reading it raised."""
        job = self._job
        if job is None or not job.done.wait(timeout_s):
            return None
        if job.error is not None:
            raise job.error
        return job.batches

    def _work(self, job: _Job) -> None:
        try:
            job.batches = self._read(*job.samples)
        except BaseException as error:  # raised again where it is waited for
            job.error = error
        job.done.set()


@dataclass
class _Job:
    samples: Samples
    done: threading.Event = field(default_factory=threading.Event)
    batches: Sequence[Batch] = ()
    error: BaseException | None = None
