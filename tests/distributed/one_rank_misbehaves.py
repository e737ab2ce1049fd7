"""Jobs in which one rank does something wrong, each told as WHAT:RANK:STEP:PROCESSES:WHERE.

WHERE is a recipe, which is trained, or a folder, for ten steps of two all-reduces under a watchdog. Started by a
launcher, the script is one process of a job. Otherwise it starts all processes of all jobs at once, leaves them to
themselves, and writes NAME.txt with what a job said and NAME.json with its exit codes to the folder OUT:
`one_rank_misbehaves.py OUT NAME=JOB...`.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_seed.config.running import WatchdogConfig
from megatron_seed.runtime import cpu_proxy, exit_codes
from megatron_seed.runtime.groups import read_launch
from megatron_seed.watch.peers import LostPeer
from megatron_seed.watch.watchdog import Watchdog

JOB_S = 120.0


@dataclass(frozen=True)
class Job:
    what: str
    rank: int
    step: int
    processes: int
    where: str

    @classmethod
    def parse(cls, told: str) -> Job:
        what, rank, step, processes, where = told.split(":")
        return cls(what, int(rank), int(step), int(processes), where)

    @property
    def trains(self) -> bool:
        return self.where.endswith(".yaml")


def hold_the_interpreter() -> None:
    """A C function that never returns and was called with the interpreter's lock, which no other thread gets then."""
    c, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)


def fail() -> None:
    raise IndexError("something of its own")


DEEDS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: time.sleep(600),
    "hold": hold_the_interpreter,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fail": fail,
    "dawdle": lambda: time.sleep(4),
}


def misbehave_in_training(job: Job) -> None:
    from megatron_seed.data.loader import PhaseData
    from megatron_seed.train import guard
    from megatron_seed.train import step as steps

    if job.what == "skip":
        real, numbers = steps._over_replicas, iter(range(1, 10**6))
        steps._over_replicas = lambda sums, groups: sums if next(numbers) == job.step else real(sums, groups)
    elif job.what == "read":
        PhaseData.micro_batches = _on_call(job.step, DEEDS["sleep"], PhaseData.micro_batches)
    elif job.what == "limp":  # and then die
        real_run = steps._run
        steps._run = lambda *arguments, **named: (time.sleep(1.0), real_run(*arguments, **named))[1]
        guard.compute_gradients = _on_call(job.step, DEEDS["die"], guard.compute_gradients)


def _on_call(number: int, deed: Callable[[], Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, with the deed done before its call of this number, from 1."""
    numbers = iter(range(1, 10**6))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(numbers) == number:
            deed()
        return real(*arguments, **named)

    return call


def train(job: Job) -> int:
    cpu_proxy.install()
    if read_launch().rank == job.rank:
        misbehave_in_training(job)
    from megatron_seed.train.__main__ import main

    return main([job.where])


def ten_steps(job: Job) -> int:
    launch = read_launch()
    watchdog = Watchdog(WatchdogConfig(hang_timeout_s=3.0, start_timeout_s=JOB_S), launch, Path(job.where))
    where = f"tcp://{launch.address}:{launch.port}"
    dist.init_process_group("gloo", where, rank=launch.rank, world_size=launch.world_size)
    try:
        with watchdog:
            for number in range(1, 11):
                if (launch.rank, number) == (job.rank, job.step):
                    DEEDS[job.what]()
                dist.all_reduce(torch.ones(3))
                dist.all_reduce(torch.ones(3))
                watchdog.beat(f"step {number}")
    except LostPeer:
        return exit_codes.LOST_PEER
    return 0


def one_process(job: Job, rank: int, port: int, says: Path) -> None:
    output = os.open(says, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(job.processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sys.exit(train(job) if job.trains else ten_steps(job))


def all_jobs(out: Path, jobs: dict[str, Job]) -> None:
    if any(job.trains for job in jobs.values()):
        cpu_proxy.install()
        import megatron_seed.train.run  # noqa: F401  once for all processes
    started = {}
    for name, job in jobs.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = [
            multiprocessing.get_context("fork").Process(target=one_process, args=(job, rank, port, out / f"{name}.txt"))
            for rank in range(job.processes)
        ]
        for process in processes:
            process.start()
        started[name] = processes
    deadline = time.monotonic() + JOB_S
    for name, processes in started.items():
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        (out / f"{name}.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    if "RANK" in os.environ:
        sys.exit(train(Job.parse(sys.argv[1])))
    named = (argument.partition("=") for argument in sys.argv[2:])
    all_jobs(Path(sys.argv[1]), {name: Job.parse(told) for name, _, told in named})
