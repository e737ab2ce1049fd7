"""Calls on a Ray cluster, or on one that is started on this machine."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.engines.base import Call
from data_prep.engines.calls import alone, answer, died, result_of
from data_prep.errors import DataError

_CONNECT_S = 10.0


@dataclass(frozen=True)
class RayEngine:
    """Each call is a Ray task; one whose worker dies is made again, `attempts` times in all."""

    address: str | None = None
    """Of a running cluster, or `auto`; None starts one here, with `workers` CPUs, for the time of the run."""
    workers: int = 1
    cpus: float = 1.0
    """That a task takes."""
    memory_gb: float | None = None
    """That a task is promised."""
    attempts: int = 3
    ahead: int = 10_000
    """Tasks that are handed to Ray at once."""

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        try:
            import ray
        except ImportError:
            raise DataError("--engine ray needs ray: pip install -e '.[ray]' in the checkout") from None
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address, self.workers)
        try:
            yield from self._run(ray, calls)
        finally:
            if ours:
                ray.shutdown()

    def _run(self, ray: Any, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        options: dict[str, Any] = {"num_cpus": self.cpus, "max_retries": self.attempts - 1}
        if self.memory_gb:
            options["memory"] = int(self.memory_gb * 1e9)
        remote = ray.remote(**options)(answer)
        left, running = iter(range(len(calls))), {}
        kept = {number: ray.put(common) for number, common in {id(call.common): call.common for call in calls}.items()}
        while True:
            while len(running) < self.ahead and (index := next(left, None)) is not None:
                running[remote.remote(alone(calls[index]), kept[id(calls[index].common)])] = index
            if not running:
                return
            for done in ray.wait(list(running), num_returns=1)[0]:
                index = running.pop(done)
                try:
                    given = ray.get(done)
                except ray.exceptions.RayError as error:
                    died(calls[index], self.attempts, type(error).__name__)
                yield index, result_of(calls[index], given)


def _connect(ray: Any, address: str | None, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        host, colon, port = (address or "").rpartition(":")
        if colon and "/" not in host:  # Ray itself would look for it for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"--engine ray: no cluster at {address or 'this machine'}: {error}") from error
