"""A job that stands still, or has lost a process, ends with an error that names the rank."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from megatron_seed.config.running import WatchdogConfig
from megatron_seed.errors import SeedError
from megatron_seed.runtime import exit_codes
from megatron_seed.runtime.groups import Launch
from megatron_seed.watch import flight_recorder, hang_report
from megatron_seed.watch.peers import Contact, Fate, LostPeer, Peer, Peers

_REPORTS_S = 10.0
"""For all ranks to report, or as long as the time-out where that is shorter."""
_MAIN_THREAD_S = 2.0
"""For the main thread to notice by itself that a peer died, before the process is ended under it."""
_FAILED_TOGETHER_S = 10.0
"""For this process to end with the error of its own that ended another."""
_WAYS_OUT_S = 60.0
"""For a process that ends with an error to be gone."""
_ERROR_CHARACTERS = 200
_FOR_EVER_S = 365 * 86_400.0
_COMMUNICATION = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Watchdog:
    """Watches one process of a job, as a context manager around its work; `beat` says that something was finished.

    Must be made before the first process group, whose collectives it records, and entered inside the groups.
    """

    def __init__(self, config: WatchdogConfig, launch: Launch, run_dir: Path) -> None:
        flight_recorder.enable()
        self._config = config
        self._launch = launch
        self._folder = run_dir / "hang"
        self._finished = "the start"
        self._finished_at = time.monotonic()
        self._starting = True
        self._doing = ""
        self._wake = threading.Event()
        self._leaving = threading.Event()
        self._ending = threading.Lock()
        self._announced = False
        self._peers: Peers | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def collective_timeout_s(self) -> float:
        """For process groups: so long that it is the watchdog that ends a job that stands still."""
        config = self._config
        if not config.hang_timeout_s:
            return _FOR_EVER_S
        return max(config.start_timeout_s, config.hang_timeout_s) + 10 * _REPORTS_S

    def beat(self, finished: str, *, starting: bool = False) -> None:
        """Something was finished, such as `step 57`. What follows may take long until the next beat if `starting`."""
        self._finished, self._starting, self._doing = finished, starting, ""
        self._finished_at = time.monotonic()

    def doing(self, what: str) -> None:
        """What this rank is at, such as `waiting for its data`, until the next beat; no sign of progress."""
        self._doing = what

    def __enter__(self) -> Watchdog:
        self._host = Peer.this().host
        self._folder = self._meet()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks = (self._folder / f"rank-{self._launch.rank}.txt").open("a", encoding="utf-8")
        with contextlib.suppress(AttributeError, RuntimeError):  # no such signal here
            faulthandler.register(signal.SIGUSR2, self._stacks, all_threads=True)
        self.beat("the start", starting=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self._lost_by(error) if error is not None else []
        self._leaving.set()
        with self._ending:  # or this thread ends here, with the process
            self._wake.set()
        self._thread.join()
        if lost:
            line = self._say_lost(lost)
            self._say_good_bye(f"the loss of {hang_report.name_ranks([fate.rank for fate in lost])}")
            raise LostPeer(line) from error
        self._say_good_bye(None if error is None else _in_short(error))
        if error is None or self._launch.world_size == 1:
            self._tidy()

    def _meet(self) -> Path:
        """Agree on a folder for this job, and take up lines to the other processes."""
        launch, config = self._launch, self._config
        if launch.world_size == 1:
            return _new_folder(self._folder)
        self._peers = Peers(
            launch.rank,
            launch.world_size,
            heartbeat_s=config.heartbeat_s,
            timeout_s=config.peer_timeout_s,
            on_change=self._wake.set,
        )
        store = dist.distributed_c10d._get_default_store()
        if launch.rank == 0:
            folder = _new_folder(self._folder)
            contact = self._peers.listen(launch.address)
            store.set("watchdog", json.dumps({"folder": folder.name, "contact": asdict(contact)}))
            return folder
        met = json.loads(store.get("watchdog"))
        self._peers.connect(Contact(**met["contact"]))
        return self._folder / met["folder"]

    def _limit_s(self) -> float:
        """Longest time until the next beat; 0 for ever."""
        config = self._config
        if not config.hang_timeout_s:
            return 0.0
        return max(config.start_timeout_s, config.hang_timeout_s) if self._starting else config.hang_timeout_s

    def _watch(self) -> None:
        """The watchdog's thread."""
        while not self._leaving.is_set():
            limit_s, hang_timeout_s = self._limit_s(), self._config.hang_timeout_s
            if hang_timeout_s:
                # Should Python stand still as a whole, this thread with it, the process writes its stacks and ends.
                faulthandler.dump_traceback_later(hang_timeout_s + 3 * self._reports_s(), file=self._stacks, exit=True)
            idle_s = time.monotonic() - self._finished_at
            peers = self._peers
            if (limit_s and idle_s > limit_s) or (peers and peers.alarm):
                self._end_hung(idle_s)
            if peers and peers.lost():
                self._end_lost(peers)
            self._wake.wait(self._config.heartbeat_s if not limit_s else min(self._config.heartbeat_s, limit_s / 4))
            self._wake.clear()

    def _end_lost(self, peers: Peers) -> None:
        """End the process, unless its main thread notices by itself that it cannot go on."""
        if all(fate.kind == "failed" for fate in peers.lost()) and self._leaving.wait(_FAILED_TOGETHER_S):
            return
        lost = peers.lost()
        self._say_lost(lost)
        if self._leaving.wait(_MAIN_THREAD_S):
            return
        with self._ending:
            if self._leaving.is_set():
                return
            self._say_good_bye(f"the loss of {hang_report.name_ranks([fate.rank for fate in lost])}")
            os._exit(exit_codes.LOST_PEER)

    def _end_hung(self, idle_s: float) -> None:
        self._ending.acquire()
        if self._leaving.is_set():
            self._ending.release()
            return
        try:
            self._explain(idle_s)
        except Exception:  # whatever keeps it from being explained, the job must end
            traceback.print_exc()
        os._exit(exit_codes.HUNG)  # the interpreter's farewells could wait for ever

    def _explain(self, idle_s: float) -> None:
        """Write what this process is at, find out with the others which rank does not fit, and say it."""
        report = hang_report.take_report(
            self._launch.rank,
            self._host,
            os.getpid(),
            idle_s=idle_s,
            finished=self._finished,
            doing=self._doing,
            settled_s=min(idle_s, self._limit_s() or idle_s) / 2,
        )
        with contextlib.suppress(OSError):
            hang_report.write_report(report, self._stacks, self._folder)
        reports = self._confer(report)
        hosts = {rank: peer.host for rank, peer in self._peers.roster.items()} if self._peers else {0: self._host}
        line = hang_report.summarise(reports, self._launch.world_size, hosts)
        self._announce(f"the job stands still: {line}; stacks are in {self._folder}")
        if self._peers:
            self._ask_for_stacks(set(hosts) - set(reports))
            self._peers.tell(line)
            self._peers.wait(self._peers.gone, _MAIN_THREAD_S)

    def _confer(self, own: hang_report.Report) -> dict[int, hang_report.Report]:
        """All ranks' reports, as far as they come; only rank 0's verdict counts where there is one."""
        peers = self._peers
        if peers is None:
            return {own.rank: own}
        peers.raise_alarm(own.as_json())
        if self._launch.rank:
            peers.wait(lambda: peers.verdict is not None, 2 * self._reports_s())
            return {own.rank: own, **hang_report.read_reports(self._folder)}
        peers.wait(lambda: len(peers.reports) == peers.world_size, self._reports_s())
        found = {rank: hang_report.Report.from_json(report) for rank, report in list(peers.reports.items())}
        return {own.rank: own, **found}

    def _reports_s(self) -> float:
        return min(_REPORTS_S, self._config.hang_timeout_s)

    def _lost_by(self, error: BaseException) -> list[Fate]:
        """Who is gone, if that is what the error is about."""
        if self._peers is None or isinstance(error, SeedError | KeyboardInterrupt):
            return []
        if is_of_communication(error):
            peers = self._peers
            peers.wait(lambda: bool(peers.lost()), 3 * self._config.heartbeat_s)
            return peers.lost() or list(peers.fates.values())
        return []

    def _say_lost(self, lost: list[Fate]) -> str:
        assert self._peers
        roster = self._peers.roster
        named = [
            f"rank {fate.rank}"
            + (f" ({roster[fate.rank].host}, process {roster[fate.rank].pid})" if fate.rank in roster else "")
            + f" {fate}"
            for fate in lost
        ]
        self._ask_for_stacks({fate.rank for fate in lost if fate.kind == "silent"})
        return self._announce(f"{'; '.join(named)}: the job cannot go on, the last it finished was {self._finished}")

    def _ask_for_stacks(self, ranks: set[int]) -> None:
        """Of processes of this machine that cannot speak for themselves; from the first that can."""
        assert self._peers
        here = Peer.this().machine
        mates = {rank: peer for rank, peer in self._peers.roster.items() if here and peer.machine == here}
        if self._launch.rank == min(mates.keys() - ranks, default=None):
            for rank in mates.keys() & ranks:
                with contextlib.suppress(OSError):
                    os.kill(mates[rank].pid, signal.SIGUSR2)

    def _announce(self, line: str) -> str:
        """Print the line, unless another process of the job has said what there was to say."""
        if not self._announced:
            self._announced = True
            if _is_first(self._folder / "summary.txt", line):
                print(f"megatron-seed: {line}", file=sys.stderr, flush=True)
        return line

    def _say_good_bye(self, error: str | None) -> None:
        faulthandler.cancel_dump_traceback_later()
        if error is not None and self._launch.world_size > 1:
            # What is torn down now may wait for others, too.
            faulthandler.dump_traceback_later(_WAYS_OUT_S, file=self._stacks, exit=True)
        if self._peers:
            self._peers.leave(error)

    def _tidy(self) -> None:
        with contextlib.suppress(AttributeError, RuntimeError):
            faulthandler.unregister(signal.SIGUSR2)
        self._stacks.close()
        if not Path(self._stacks.name).stat().st_size:
            Path(self._stacks.name).unlink()
        for folder in (self._folder, self._folder.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_of_communication(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is about talking to other processes."""
    while error is not None:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _COMMUNICATION):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_short(error: BaseException) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:_ERROR_CHARACTERS]}"


def _new_folder(parent: Path) -> Path:
    """For what one job has to say, named by the time; those in which nothing was said are removed."""
    for folder in parent.glob("*"):
        if not any(path.stat().st_size for path in folder.glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
    name = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    folders = itertools.chain([parent / name], (parent / f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in folders if not folder.exists())


def _is_first(path: Path, line: str) -> bool:
    """Write the line to a file unless it is there already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(line + "\n")
    except FileExistsError:
        return False
    except OSError:  # a full disk must not keep it from being said
        return True
    return True
