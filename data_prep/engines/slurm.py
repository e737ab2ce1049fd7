"""Calls as tasks of Slurm job arrays, through submitit."""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.engines.base import Call
from data_prep.engines.calls import Answer, Failure, alone, answer, died, result_of
from data_prep.engines.runs import begin_run, goes_on
from data_prep.errors import DataError
from data_prep.storage import remove_file

_NEVER_STARTS = ("PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints")
_LOOK_S = 15.0  # how often a task looks whether its run still counts


@dataclass(frozen=True)
class SlurmEngine:
    """Each call, or group of calls, is one task of a job array.

    A task that dies (killed, out of memory or time, its node lost) is submitted again, `attempts` times in all. When
    this process ends early its jobs are cancelled. Should it be killed they run on, and what they finish is found by
    the next run; once that has begun, here or on another engine, they do nothing more, since it may ask for something
    else. They look for the mark of their run (`data_prep.engines.runs`) before each call, and every 15 s during it.
    """

    folder: Path
    """For scripts, pickled calls and logs; on a file system that all nodes see."""
    runs: Path | None = None
    """Where runs leave their marks; `folder` if None. One place for all that must not run at once, such as a corpus."""
    partition: str | None = None
    account: str | None = None
    time_minutes: int = 240
    cpus: int = 1
    memory_gb: float = 4.0
    max_tasks: int = 1000
    """Of one array; Slurm's MaxArraySize less one. Further calls share tasks."""
    max_running: int = 256
    """Tasks that run at once."""
    attempts: int = 3
    poll_s: float = 5.0
    setup: tuple[str, ...] = ()
    """Lines of shell before the task, such as `module load python`; written by the user, never made of values."""

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        if not calls:
            return
        groups = [list(range(start, len(calls), self.max_tasks)) for start in range(min(self.max_tasks, len(calls)))]
        executor = self._executor()
        mark = begin_run(self.runs or self.folder)
        kept = self._keep(calls)
        waiting = self._submit(executor, calls, groups, kept, mark)
        deaths = dict.fromkeys(range(len(groups)), 0)
        try:
            while waiting:
                time.sleep(self.poll_s)
                active = _active()
                for number, job in list(waiting.items()):
                    answers = self._answers(job, active)
                    if answers is None:
                        continue
                    del waiting[number]
                    if answers:
                        yield from ((i, result_of(calls[i], a)) for i, a in zip(groups[number], answers, strict=True))
                        continue
                    deaths[number] += 1
                    if deaths[number] >= self.attempts:
                        died(calls[groups[number][0]], deaths[number], f"see {job.paths.stderr}")
                    (again,) = self._submit(executor, calls, [groups[number]], kept, mark).values()
                    waiting[number] = again
        finally:
            for job in waiting.values():
                job.cancel(check=False)
            for path in (*kept.values(), mark):
                remove_file(path)

    def _keep(self, calls: Sequence[Call]) -> dict[int, Path]:
        """Files of what calls have in common, by its `id`: tasks read it there, instead of each having a copy."""
        from submitit.core.utils import cloudpickle_dump

        kept = {}
        for common in {id(call.common): call.common for call in calls if call.common}.values():
            kept[id(common)] = self.folder / f"common-{secrets.token_hex(8)}.pkl"
            cloudpickle_dump(common, kept[id(common)])
        return kept

    def _submit(
        self,
        executor: Any,
        calls: Sequence[Call],
        groups: Sequence[Sequence[int]],
        kept: Mapping[int, Path],
        mark: Path,
    ) -> dict[int, Any]:
        executor.update_parameters(array_parallelism=min(self.max_running, len(groups)))
        try:
            tasks = [[(alone(calls[index]), kept.get(id(calls[index].common))) for index in group] for group in groups]
            jobs = executor.map_array(_answer_all, tasks, [mark] * len(tasks))
        except Exception as error:  # of submitit, which wraps those of sbatch
            raise DataError(f"Slurm did not take the job: {' '.join(str(error).split())}") from error
        return dict(enumerate(jobs))

    def _executor(self) -> Any:
        try:
            import submitit
        except ImportError:
            raise DataError("--engine slurm needs submitit: pip install -e '.[slurm]' in the checkout") from None
        # Pickles of calls and results lie here; nobody else may write any.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            executor = submitit.SlurmExecutor(folder=self.folder)
        except RuntimeError as error:
            raise DataError(f"--engine slurm: {error}") from None
        executor.update_parameters(
            job_name="megatron-seed-data",
            time=self.time_minutes,
            cpus_per_task=self.cpus,
            mem=f"{max(1, int(self.memory_gb * 1000))}M",
            setup=list(self.setup) or None,
            **{name: value for name in ("partition", "account") if (value := getattr(self, name))},
        )
        return executor

    def _answers(self, job: Any, active: Mapping[str, str]) -> list[Answer] | None:
        """What a task gave, an empty list when it died, None while it is at work."""
        if job.paths.result_pickle.exists():
            outcome, given = _load(job.paths.result_pickle)
            return given if outcome == "success" else []
        if active.get(job.job_id) in _NEVER_STARTS:
            raise DataError(f"Slurm will never start {job.job_id}: {active[job.job_id]}; ask for less, or elsewhere")
        return None if job.job_id in active else []


def _answer_all(calls: Sequence[tuple[Call, Path | None]], mark: Path) -> list[Answer]:
    """In a task: calls, each with the file of its common arguments; none is made once `mark` is gone."""
    if not goes_on(mark):
        return [_replaced()] * len(calls)
    common = {path: _load(path) for path in {path for _, path in calls} if path}
    with _ended_without(mark):
        return [answer(call, common.get(path, ())) if goes_on(mark) else _replaced() for call, path in calls]


def _replaced() -> Answer:
    return Answer(failure=Failure("its run was replaced by a newer one, or has ended; look at what that says", ""))


@contextlib.contextmanager
def _ended_without(mark: Path, look_s: float = _LOOK_S) -> Iterator[None]:
    """Ends this process once `mark` is gone: what it would still write may be older than what a newer run wrote."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(look_s):
            with contextlib.suppress(Exception):  # of a file system or store that cannot be reached; looked at again
                if not goes_on(mark) and not done.is_set():
                    print(f"{mark} is gone: a newer run has begun", file=sys.stderr, flush=True)
                    os._exit(1)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()


def _load(path: Path) -> Any:
    """A pickle of the engine's own folder."""
    from submitit.core.utils import pickle_load

    return pickle_load(path)


def _active() -> dict[str, str]:
    """Tasks of this user that wait or run, such as `57_3`, and why they wait. Needs no accounting, which not every
    cluster has."""
    command = ["squeue", "--noheader", "--array", "--format=%i %r", "--me"]
    for attempt in range(5):
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if found.returncode == 0:
            return dict(line.split(maxsplit=1) for line in found.stdout.splitlines())
        time.sleep(2**attempt)  # a controller that restarts is no reason to give up
    raise DataError(f"squeue does not answer: {found.stderr.strip()}")
