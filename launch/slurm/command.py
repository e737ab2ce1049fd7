"""One command as a batch job of one node: a conversion, a data stage, or what drives one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import ClusterConfig
from launch.slurm.container import enter, pyxis_options
from launch.slurm.script import Script, further_directives, job_name, log_pattern, node_directives

PROGRAM = "megatron-seed"


@dataclass(frozen=True)
class CommandJob:
    name: str
    command: tuple[str, ...]
    """Word by word; `megatron-seed` as the first is this program, from `code`."""
    cluster: ClusterConfig
    folder: Path
    """That it runs in."""
    code: Path | None
    """Folder of the packages; None where the interpreter has them."""
    log: Path
    """With `%j` for the job's id in its last part."""


def command_script(job: CommandJob) -> Script:
    directives: dict[str, str | int | None] = {
        "job-name": job_name(job.name, job.folder),
        "nodes": 1,
        "ntasks-per-node": 1,
        **dict(node_directives(job.cluster)),
        "output": log_pattern(job.log),
        "open-mode": "append",
        "requeue": None,
        **dict(further_directives(job.cluster)),
    }
    about = ("Runs one command. Started again, it does what is missing.",)
    return Script(job.cluster, directives, about, job.folder, job.code, list(_words(job)))


def _words(job: CommandJob) -> Iterator[Sequence[str]]:
    mounted = [path for path in (job.folder, job.code, job.cluster.scratch) if path]
    options = list(pyxis_options(job.cluster, job.folder, mounted))
    if options:
        yield "srun", "--ntasks=1", *options
    inside = list(enter(job.cluster, job.folder, mounted))
    if inside:
        yield inside
    first, *rest = job.command
    if first == PROGRAM:
        python = str(job.cluster.python or ("python" if job.cluster.container else sys.executable))
        yield python, "-m", "launch", *rest
    else:
        yield job.command
