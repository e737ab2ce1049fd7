"""Which processes of a job are still there: each holds a line to rank 0, which tells all what became of the others.

The kernel ends the connections of a process that dies, however it dies, so its end is known at once and on every
machine. A machine that vanishes, or a process whose interpreter is stuck, is known by its silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from megatron_seed.errors import SeedError

logger = logging.getLogger(__name__)

THREAD = "peers"
_LONGEST_LINE_BYTES = 1 << 26
_FAREWELL_S = 2.0
_TOLD_AT_MOST = 8
"""Fates that rank 0 passes on: where more than a few processes fail, the first ones are the cause."""


class LostPeer(SeedError):
    """This process cannot go on because another is gone; that has been said already."""


@dataclass(frozen=True)
class Peer:
    """One process of the job."""

    host: str
    pid: int
    machine: str
    """Equal for processes that see each other under their process ids."""

    @classmethod
    def this(cls) -> Peer:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
                machine = boot.read().strip() + os.readlink("/proc/self/ns/pid")
        except OSError:
            machine = ""
        return cls(socket.gethostname(), os.getpid(), machine)


@dataclass(frozen=True)
class Fate:
    """What became of a process."""

    rank: int
    kind: Literal["died", "silent", "failed", "left"]
    """Without a word; not heard of for too long; with an error; all done."""
    text: str = ""
    """The error."""

    def __str__(self) -> str:
        match self.kind:
            case "died":
                return "died"
            case "silent":
                return "was not heard of for too long"
            case "failed":
                return f"ended with {self.text}"
            case "left":
                return "had left the job"


@dataclass(frozen=True)
class Contact:
    """Where rank 0 listens, and the word that lets one in."""

    address: str
    port: int
    token: str


class Peers:
    """This process's line to the others. Runs a thread; `on_change` is called in it when something becomes known."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        *,
        heartbeat_s: float,
        timeout_s: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.fates: dict[int, Fate] = {}
        self.roster: dict[int, Peer] = {rank: Peer.this()}
        self.reports: dict[int, Any] = {}
        """What ranks said of themselves after an alarm; on rank 0."""
        self.alarm = False
        """A rank stands still: everyone is to report."""
        self.verdict: str | None = None
        self._heartbeat_s = heartbeat_s
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._news = threading.Condition()
        self._lines: dict[int, asyncio.StreamWriter] = {}
        self._silence_s: dict[int, float] = {}
        self._tried = False
        self._leaving = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def listen(self, address: str) -> Contact:
        """Rank 0: be there for the others at this machine's `address`."""
        token = secrets.token_hex(16)
        listener = _listener(address)
        self._start(self._serve(listener, token))
        return Contact(address, listener.getsockname()[1], token)

    def connect(self, contact: Contact) -> None:
        """The others: take up the line. Without one, dead processes stay unnamed and a warning says so."""
        self._start(self._hold_line(contact))
        self.wait(lambda: self._tried, self._timeout_s)

    def raise_alarm(self, report: Mapping[str, Any]) -> None:
        """Have everyone report, beginning with this rank."""
        self._in_thread(self._take, self.rank, {"kind": "report", "report": dict(report)})
        if self.rank:
            self._in_thread(self._send, {"kind": "report", "report": dict(report)})

    def tell(self, verdict: str) -> None:
        """Rank 0: what was found from the reports, for everyone."""
        self._in_thread(self._send, {"kind": "verdict", "verdict": verdict})

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something true has become known; False when it took too long."""
        with self._news:
            return self._news.wait_for(condition, timeout_s)

    def lost(self) -> list[Fate]:
        """Those without whom the job cannot go on."""
        return [fate for fate in list(self.fates.values()) if fate.kind != "left"]

    def gone(self) -> bool:
        """Rank 0: nobody is on the line any more."""
        return not self._lines

    def leave(self, error: str | None = None) -> None:
        """Say good-bye, with the error that made this process end."""
        if not self._thread.is_alive():
            return
        self._leaving = True
        self._in_thread(self._send, {"kind": "bye", "error": error})
        self._in_thread(self._close)
        self._thread.join(_FAREWELL_S)

    def _start(self, work: Any) -> None:
        self._work = self._loop.create_task(work)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._work)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))  # for connections to close
        self._loop.close()

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _close(self) -> None:
        for writer in self._lines.values():
            writer.close()
        self._work.cancel()

    async def _serve(self, listener: socket.socket, token: str) -> None:
        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                hello = json.loads(await asyncio.wait_for(reader.readline(), self._timeout_s))
                if not hmac.compare_digest(hello["token"], token):
                    raise ValueError("not of this job")
                rank, peer = int(hello["rank"]), Peer(**hello["peer"])
            except (TimeoutError, OSError, ValueError, KeyError, TypeError):
                writer.close()
                return
            self.roster[rank] = peer
            self._lines[rank] = writer
            if len(self.roster) == self.world_size:
                self._send({"kind": "roster", "peers": {rank: asdict(peer) for rank, peer in self.roster.items()}})
            self._tell_waiting()
            await self._listen_to(rank, reader)

        server = await asyncio.start_server(welcome, sock=listener, limit=_LONGEST_LINE_BYTES)
        try:
            await self._keep_beating()
        finally:
            server.close()

    async def _hold_line(self, contact: Contact) -> None:
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(contact.address, contact.port, limit=_LONGEST_LINE_BYTES), self._timeout_s
            )
        except (TimeoutError, OSError) as error:
            logger.warning("rank %d: no line to rank 0 at %s:%d (%s): dead processes will not be named",
                           self.rank, contact.address, contact.port, error)  # fmt: skip
            return
        finally:
            self._tried = True
            self._tell_waiting()
        self._lines[0] = writer
        self._send({"rank": self.rank, "token": contact.token, "peer": asdict(self.roster[self.rank])})
        await asyncio.gather(self._listen_to(0, reader), self._keep_beating())

    async def _listen_to(self, rank: int, reader: asyncio.StreamReader) -> None:
        self._silence_s[rank] = 0.0
        try:
            while line := await reader.readline():
                self._silence_s[rank] = 0.0
                self._take(rank, json.loads(line))
        except (OSError, ValueError):  # the line broke off
            pass
        finally:
            self._lines.pop(rank).close()
            del self._silence_s[rank]
            self._note(Fate(rank, "died"))
            self._tell_waiting()

    async def _keep_beating(self) -> None:
        """Be heard, and count how long others were not; in time of this process's own, which may stand still too."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(self._heartbeat_s)
            self._send({"kind": "beat"})
            passed_s = min(time.monotonic() - began, 2 * self._heartbeat_s)
            for rank in self._silence_s:
                self._silence_s[rank] += passed_s
                if self._silence_s[rank] > self._timeout_s:
                    self._note(Fate(rank, "silent"))
                    self._tell_waiting()

    def _take(self, rank: int, message: Mapping[str, Any]) -> None:
        match message:
            case {"kind": "roster", "peers": peers}:
                self.roster = {int(rank): Peer(**peer) for rank, peer in peers.items()}
            case {"kind": "bye", "error": error}:
                self._note(Fate(rank, "left" if error is None else "failed", error or ""))
            case {"kind": "fate", "fate": fate}:
                self._note(Fate(**fate))
            case {"kind": "report", "report": report}:
                self.reports[rank] = report
                self._raise_alarm()
            case {"kind": "alarm"}:
                self._raise_alarm()
            case {"kind": "verdict", "verdict": verdict}:
                self.verdict = verdict
            case _:  # a heartbeat
                return
        self._tell_waiting()

    def _raise_alarm(self) -> None:
        if not self.alarm and self.rank == 0:
            self._send({"kind": "alarm"})
        self.alarm = True

    def _note(self, fate: Fate) -> None:
        """The first that is known of a rank holds."""
        if fate.rank in self.fates or fate.rank == self.rank or self._leaving:
            return
        self.fates[fate.rank] = fate
        if self.rank == 0 and len(self.fates) <= _TOLD_AT_MOST:
            self._send({"kind": "fate", "fate": asdict(fate)})

    def _tell_waiting(self) -> None:
        with self._news:
            self._news.notify_all()
        self._on_change()

    def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for writer in list(self._lines.values()):
            if not writer.is_closing():
                writer.write(line)


def _listener(address: str) -> socket.socket:
    """At the address by which the others know this machine, or at all of its addresses."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family, backlog=1024)
    except OSError:
        return socket.create_server(("", 0), backlog=1024)
