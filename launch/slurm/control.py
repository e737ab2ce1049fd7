"""Slurm's commands, called with lists of arguments."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

_TIMEOUT_S = 60.0
ALIVE = (
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "STOPPED",
)
"""States of a job that may still do something."""


class SlurmError(Exception):
    """A command of Slurm's failed; its own words."""


def slurm(*command: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Output of a command; SlurmError where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=os.environ)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer for {timeout_s:.0f} s") from None
    if done.returncode:
        raise SlurmError(" ".join(f"{done.stdout}{done.stderr}".split()) or f"{command[0]}: code {done.returncode}")
    return done.stdout


def _patiently(*command: str) -> str:
    """A question that is asked again when the controller is away for a moment."""
    for pause_s in (1.0, 5.0, 20.0):
        try:
            return slurm(*command)
        except SlurmError:
            time.sleep(pause_s)
    return slurm(*command)


def host_names(node_list: str) -> list[str]:
    """`gpu[1-3]` as names, in Slurm's order, which is that of ranks."""
    return slurm("scontrol", "show", "hostnames", node_list).split() if node_list else []


def job_reason(job: str) -> str:
    """Why a job is as it is, such as TimeLimit; empty where Slurm does not say."""
    return _of_job(job, "Reason")


def job_nodes(job: str) -> list[str]:
    """Nodes that the job holds now; those that went down are no longer among them."""
    return host_names(_of_job(job, "NodeList").replace("(null)", ""))


def has_lost_batch_host(job: str) -> bool:
    """Whether a running job goes on without the node that its batch script was on."""
    about = _about(job)
    held = host_names(about.get("NodeList", "").replace("(null)", ""))
    return about.get("JobState") == "RUNNING" and bool(held) and about.get("BatchHost") not in held


def _of_job(job: str, key: str) -> str:
    return _about(job).get(key, "")


def _about(job: str) -> dict[str, str]:
    """What `scontrol show job` says; the values that are asked for hold no spaces."""
    words = (word.partition("=") for word in _patiently("scontrol", "show", "job", job).split())
    return {name: value for name, equals, value in words if equals}


def requeue(job: str, without: Sequence[str]) -> None:
    """Put a job back into the queue, to start on other nodes than `without`. Slurm then ends this job's processes.

    Nodes can only be left out of a job that waits, so that comes second; the caller has `KillWait` (30 s) for it.
    """
    slurm("scontrol", "requeue", job)
    if without:
        slurm("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(without)}")


def cancel(jobs: Sequence[str], *options: str) -> None:
    if jobs:
        slurm("scancel", "--quiet", *options, *jobs)


def end_steps(job: str, name: str, *options: str) -> None:
    """Kill the steps of a job that have this name, or what scancel's options say. SIGKILL for the job as a whole would
    end its batch script too."""
    rows = slurm("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j").splitlines()
    cancel([step for step, _, its in (row.partition(" ") for row in rows) if its.strip() == name], *options)


def job_states(jobs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """State and reason of those jobs that Slurm still knows."""
    if not jobs:
        return {}
    try:
        lines = slurm("squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}")
    except SlurmError as error:
        if "Invalid job id" in str(error):  # what it says of one job that it has forgotten
            return {}
        raise
    rows = (line.split("|", 2) for line in lines.splitlines())
    return {job: (state, reason) for job, state, reason in rows}
