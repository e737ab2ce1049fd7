"""Work that may wait for a processor."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def lower_priority() -> None:
    """From here on this thread runs where nothing else wants to: on Linux each thread has a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
