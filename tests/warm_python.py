"""A Python that has imported the training stack already, for tests that start many processes of it.

The server imports what every training process imports, then answers each start with a fork of itself. What is started
is a small client of it, an executable that takes the arguments of Python (`-u -m MODULE ...` or `SCRIPT ...`): it
sends them, its environment and its files, hands signals on, and ends as the forked process does. Killed, it takes the
forked process along. So launchers need not know: torchrun starts it for Python where `PYTHON_EXEC` names it.

What Python reads of the environment at its own start, such as PYTHONPATH, is the server's.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys

handed_on = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # until there is a process to hand them to
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
said = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(said).to_bytes(8, "little")], [0, 1, 2])
server.sendall(said)
process = int(server.recv(32))
for number in handed_on:
    signal.signal(number, lambda number, _: os.kill(process, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
code = int(server.recv(32))
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def write_client(path: Path, name: str) -> None:
    """Writes the executable for the server of this name."""
    path.write_text(CLIENT.format(python=sys.executable, address=_address(name)))
    path.chmod(0o755)


def _address(name: str) -> str:
    """A socket that lives in no folder, and goes with its server."""
    return f"\0{name}"


class Server:
    """Forks a process for each client, and tells it how that ended. Ends with its own standard input."""

    def __init__(self, name: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(_address(name))
        self.listener.listen(64)
        self.watched = selectors.DefaultSelector()
        self.watched.register(self.listener, selectors.EVENT_READ)
        self.watched.register(0, selectors.EVENT_READ)

    def next_process(self) -> list[str] | None:
        """Returns in each forked process: the arguments it was started with. In the server, at its end: None."""
        while True:
            for key, _ in self.watched.select():
                if key.fileobj == 0:
                    return None
                if key.fileobj is self.listener:
                    if arguments := self._fork():
                        return arguments
                elif self.watched.get_map().get(key.fd) is key:  # and not of one that has just ended
                    self._end(*key.data, killed=isinstance(key.fileobj, socket.socket))

    def _fork(self) -> list[str] | None:
        client = self.listener.accept()[0]
        head, files, _, _ = socket.recv_fds(client, 8, 3)
        length = int.from_bytes(head, "little")
        with client.makefile("rb") as stream:
            said = stream.read(length)
        if not said or len(said) < length:  # killed before it had told
            for file in files:
                os.close(file)
            client.close()
            return None
        if process := os.fork():
            for file in files:
                os.close(file)
            _tell(client, process)
            ended = os.pidfd_open(process)
            self.watched.register(ended, selectors.EVENT_READ, (process, client, ended))
            self.watched.register(client, selectors.EVENT_READ, (process, client, ended))
            return None
        for key in list(self.watched.get_map().values()):
            if key.fd != 0:
                os.close(key.fileobj) if isinstance(key.fileobj, int) else key.fileobj.close()
        client.close()
        self.watched.close()
        arguments, environment, folder = json.loads(said)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return [argument for argument in arguments if argument != "-u"]

    def _end(self, process: int, client: socket.socket, ended: int, killed: bool) -> None:
        if killed:
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        _tell(client, code)
        self.watched.unregister(client)
        self.watched.unregister(ended)
        client.close()
        os.close(ended)


def _tell(client: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        client.sendall(b"%-32d" % number)


def run(arguments: list[str]) -> None:
    """Runs a module or a script as Python with these arguments does."""
    random.seed()
    numpy.random.seed()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # as training without a GPU sets it, before optimizers import it
    import numpy
    import torch._dynamo
    import torch.distributed.run  # noqa: F401

    import megatron_seed.train.run  # noqa: F401

    gc.collect()
    gc.freeze()
    server = Server(sys.argv[1])
    print("ready", flush=True)
    if arguments := server.next_process():
        run(arguments)
