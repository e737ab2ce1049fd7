"""One step of srun: training on some nodes of the job, from its start until every process has ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.slurm import control
from megatron_seed.runtime import exit_codes

# What each process runs under: its output goes into a file of its own, its exit code and its node into another. The
# arguments are never part of the text. A trap, unlike an ignored signal, is not inherited by what is run.
_LOGGED = """\
log=$1 rank=${RANK:-$SLURM_PROCID}
shift
exec >"$log/rank-$rank.log" 2>&1
trap : TERM USR1
"$@"
code=$?
echo "$code ${SLURMD_NODENAME:-unknown}" >"$log/.rank-$rank.exit"
mv -f "$log/.rank-$rank.exit" "$log/rank-$rank.exit"
exit "$code"
"""
# torchrun does not know SIGUSR1, which would end it; its ranks do.
_DEAF_TO_USR1 = """trap '' USR1; exec "$@" """
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_NAME = "training"
"""Of steps."""
_LOOK_EVERY_S = 1.0
_NO_FAILURE = {0, exit_codes.STOPPED_EARLY}
_FAILED_GRACE_S = 15.0
"""Where one rank failed, the others know within seconds; those that say nothing more are gone."""


@dataclass(frozen=True)
class Training:
    """What is started on each node."""

    command: tuple[str, ...]
    """Python, its options, and the recipe."""
    processes: int
    """Of each node."""
    launcher: str = "srun"
    """srun: one task for each process; torchrun: one for each node."""
    srun_options: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    """What enters a container, before the command."""


@dataclass(frozen=True)
class StepEnd:
    codes: dict[int, int]
    """Exit code of each rank that told one."""
    nodes: dict[int, str]
    """Where those ranks were."""
    srun_code: int


def training_argv(training: Training, nodes: Sequence[str], log_dir: Path, port: int) -> list[str]:
    """srun's arguments for training on these nodes."""
    count, ours = len(nodes), list(training.command)
    logged = ["bash", "-c", _LOGGED, "bash", str(log_dir)]
    if training.launcher == "srun":
        return [*srun_argv(training, nodes, training.processes), *logged, *training.inside, *ours]
    address = os.environ.get("MASTER_ADDR") or nodes[0]
    torchrun = [
        ours[0], "-m", "torch.distributed.run", f"--nnodes={count}", f"--nproc-per-node={training.processes}",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={address}:{port}", f"--rdzv-id={os.environ['SLURM_JOB_ID']}",
        "--max-restarts=0", "--no-python",
    ]  # fmt: skip
    deaf = ["bash", "-c", _DEAF_TO_USR1, "bash"]
    return [*srun_argv(training, nodes, 1), *deaf, *training.inside, *torchrun, *logged, *ours]


def told(training: Training, nodes: Sequence[str]) -> str:
    """The command of a step as a person would write it, without what sees to logs and exit codes."""
    tasks = training.processes if training.launcher == "srun" else 1
    torchrun = ["torchrun", "..."] if training.launcher == "torchrun" else []
    return shlex.join([*srun_argv(training, nodes, tasks), *training.inside, *torchrun, *training.command])


def srun_argv(training: Training, nodes: Sequence[str], tasks: int) -> list[str]:
    """Ranks see their fellows die and end by themselves; one that saves last must not be killed for being last.

    To Slurm a step on a node that is gone runs on, and holds what it has of the others: hence `--overlap`.
    """
    return [
        "srun", f"--job-name={_NAME}", f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}",
        f"--ntasks={len(nodes) * tasks}", f"--ntasks-per-node={tasks}", "--overlap", "--distribution=block",
        "--kill-on-bad-exit=0", "--unbuffered", *training.srun_options,
    ]  # fmt: skip


def port_of(job: str, attempt: int) -> int:
    """Where the ranks meet: another one for each attempt, and for jobs that share a node."""
    return 20_000 + (int(job) * 97 + attempt) % 20_000


def run_training(
    training: Training,
    nodes: Sequence[str],
    log_dir: Path,
    job: str,
    attempt: int,
    grace_s: float,
    look: Callable[[], None],
) -> StepEnd:
    """Run to the end. When some processes have ended and for `grace_s` no other follows, the rest is killed: a last
    save may take that long, but after a failure there is none, and the wait is short. `look` is called now and then."""
    port = int(os.environ.get("MASTER_PORT") or port_of(job, attempt))
    environ = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    argv = training_argv(training, nodes, log_dir, port)
    log_dir.mkdir(parents=True)
    with _on_console(log_dir / "rank-0.log"):
        srun = subprocess.Popen(argv, env={**environ, "MASTER_PORT": str(port)}, stdin=subprocess.DEVNULL)
        code = _wait(srun, log_dir, job, grace_s, look)
    codes, where = read_exits(log_dir)
    return StepEnd(codes, where, code)


def _wait(srun: subprocess.Popen, log_dir: Path, job: str, grace_s: float, look: Callable[[], None]) -> int:
    told, told_at = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return srun.wait(_LOOK_EVERY_S)
        look()
        codes, _ = read_exits(log_dir)
        if len(codes) > told:
            told, told_at = len(codes), time.monotonic()
        saving = set(codes.values()) <= _NO_FAILURE
        if told and time.monotonic() - told_at > (grace_s if saving else min(grace_s, _FAILED_GRACE_S)):
            return end_step(srun, job)


def end_step(srun: subprocess.Popen, job: str, patience_s: float = 20.0) -> int:
    """End what still runs of the job's steps; the batch script goes on."""
    with contextlib.suppress(control.SlurmError):
        control.end_steps(job, _NAME)
    for ask in (srun.terminate, srun.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return srun.wait(patience_s)
        ask()
    return srun.wait()


def stop_training(job: str) -> None:
    """Have it save and end; processes that do not yet hear that end at once, or do not notice. Raises SlurmError."""
    control.end_steps(job, _NAME, "--signal=USR1")


def read_exits(log_dir: Path) -> tuple[dict[int, int], dict[int, str]]:
    """Exit codes and nodes of the ranks that told them."""
    codes: dict[int, int] = {}
    nodes: dict[int, str] = {}
    for path in log_dir.glob("rank-*.exit"):
        code, _, node = path.read_text(encoding="utf-8").strip().partition(" ")
        rank = int(path.stem.removeprefix("rank-"))
        codes[rank], nodes[rank] = int(code), node
    return codes, nodes


@contextlib.contextmanager
def _on_console(path: Path) -> Iterator[None]:
    """Repeat on this process's output what is written to a file."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10.0)


def _follow(path: Path, done: threading.Event) -> None:
    position = 0
    while True:
        last = done.wait(0.5)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(position)
            while block := file.read(1 << 16):
                sys.stdout.buffer.write(block)
                position += len(block)
            sys.stdout.buffer.flush()
        if last:
            return
