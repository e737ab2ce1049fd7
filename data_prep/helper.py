"""A process that does for another what may crash it or never end: it is asked over a connection, and lost alone.

It ends with the process that started it, however that ends.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1
_LAST_WORDS_S = 2.0  # between the end of a process's connection and its own
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from data_prep.helper import serve; serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
)


class LostHelperError(Exception):
    """The process died or took too long; the message says which, in words."""

    def __init__(self, said: str, timed_out: bool = False) -> None:
        super().__init__(said)
        self.timed_out = timed_out


class Helper:
    """A process in which `entry` (`module:function`) is called with a connection to this one, until either ends."""

    def __init__(self, entry: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _COMMAND, json.dumps(sys.path), entry, str(number), str(os.getpid())]
            # What it prints must not mix with the output of the command that runs it.
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL, stdout=2)
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)

    def send(self, message: Any) -> None:
        """Raises `LostHelperError`."""
        try:
            self._connection.send(message)
        except OSError:
            raise self._lost() from None

    def receive(self, timeout_s: float) -> Any:
        """Raises `LostHelperError`; the process is ended then."""
        try:
            if self._connection.poll(timeout_s):
                return self._connection.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        self.close()
        raise LostHelperError(f"timed out after {timeout_s:g} s", timed_out=True)

    def _lost(self) -> LostHelperError:
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            said = "closed its connection"
        else:
            said = f"crashed (signal {-code})" if code < 0 else f"ended with exit code {code}"
        self.close()
        return LostHelperError(said)

    def close(self) -> None:
        """Ends the process."""
        self._finalizer()


def _end(process: subprocess.Popen, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


def serve(entry: str, number: int, parent: int) -> None:
    """The life of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run decides what it means
    _die_with(parent)
    module, _, function = entry.partition(":")
    with Connection(number) as connection, contextlib.suppress(EOFError, OSError):
        getattr(importlib.import_module(module), function)(connection)


def _die_with(parent: int) -> None:
    """A process that hangs would outlive a killed run; the kernel ends it then (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
