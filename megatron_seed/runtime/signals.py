"""Being told to stop: noticed at once, acted on where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from megatron_seed.errors import SeedError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_WALL_CLOCK = "the wall-clock limit"
REASONS = (_WALL_CLOCK, *(number.name for number in _SIGNALS))


class StoppedEarly(SeedError):
    """The job was told to stop before it was done; starting it again goes on from where it stands."""


class StopRequest:
    """SIGTERM, SIGUSR1, Ctrl-C, or the end of the time that the job may run.

    A context manager: inside, the signals only set `reason`; a second Ctrl-C interrupts as usual.
    """

    def __init__(self, wall_clock_s: float | None = None, margin_s: float = 0.0) -> None:
        """`wall_clock_s` counts from the start of this process; without it the end of the Slurm job is taken."""
        self._signal: str | None = None
        self._deadline = None if (end := _end_of_job(wall_clock_s)) is None else end - margin_s
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Why to stop, None to go on."""
        if self._signal is None and self._deadline is not None and time.time() >= self._deadline:
            return _WALL_CLOCK
        return self._signal

    def check(self) -> None:
        """Raise StoppedEarly when there is a reason to stop; for places where there is nothing to save."""
        if self.reason:
            raise StoppedEarly(f"stopped by {self.reason}; start the same command again to go on")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def _end_of_job(wall_clock_s: float | None) -> float | None:
    """Seconds since the epoch."""
    if wall_clock_s is not None:
        return _started() + wall_clock_s
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdigit() else None


def _started() -> float:
    """When this process began, in seconds since the epoch."""
    import psutil

    return psutil.Process().create_time()
