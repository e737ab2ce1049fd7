"""No process of a run outlives what started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """End this process with the torchrun that started it, and its own children with it (Linux).

    torchrun gives each rank a session of its own: after a SIGKILL of the job's process group they would train on and
    save into the folder of the run that was started again.
    """
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl
    if "TORCHELASTIC_RUN_ID" in os.environ:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.register_at_fork(after_in_child=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
