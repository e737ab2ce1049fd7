"""A training run as a batch job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.cluster import ClusterConfig
from launch.slurm.container import enter, pyxis_options
from launch.slurm.history import launch_dir
from launch.slurm.script import (
    Script,
    further_directives,
    job_name,
    log_pattern,
    node_directives,
)
from megatron_seed.config.schema import Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.errors import SeedError


@dataclass(frozen=True)
class Request:
    """What the user asks for, beside recipe and cluster."""

    nodes: int
    spare_nodes: int = 0
    """Further nodes, idle until one of the others fails."""
    min_nodes: int | None = None
    """Train on as few when there are no more; default: `nodes`."""
    requeue: bool = True
    chain: int = 1
    """Jobs, one after the other."""
    launcher: Literal["srun", "torchrun"] = "srun"
    tries: int = 3
    """Attempts from one checkpoint before giving up."""
    health: bool = True


def node_counts(recipe: Recipe, cluster: ClusterConfig, request: Request) -> tuple[int, ...]:
    """Numbers of nodes on which the recipe can train. Raises SeedError when that asked for is none of them."""
    check_layout(recipe, request.nodes * cluster.processes)
    fewest = request.min_nodes or request.nodes
    if fewest > request.nodes:
        raise SeedError(f"--min-nodes {fewest} is more than --nodes {request.nodes}")
    return tuple(n for n in range(fewest, request.nodes + 1) if _fits(recipe, n * cluster.processes))


def _fits(recipe: Recipe, processes: int) -> bool:
    try:
        check_layout(recipe, processes)
    except SeedError:
        return False
    return True


@dataclass(frozen=True)
class TrainingJob:
    recipe: Recipe
    arguments: tuple[str, ...]
    """What training is given: a recipe, and overrides."""
    cluster: ClusterConfig
    request: Request
    folder: Path
    """That the job runs in, against which relative paths of the recipe are read."""
    code: Path | None
    """Folder of the packages; None where the interpreter has them."""
    submitted: bool = False
    """From here: the run folder is there for the log."""

    @property
    def run_dir(self) -> Path:
        return self.folder / self.recipe.run_dir


def training_script(job: TrainingJob) -> Script:
    return Script(
        cluster=job.cluster,
        directives=_directives(job),
        about=(
            "Trains a recipe, going on from its newest checkpoint. The command below starts training with srun on the",
            "nodes of this job, prints how, and decides what to do when it ends; docs/slurm.md has more.",
        ),
        folder=job.folder,
        code=job.code,
        words=list(_supervisor(job)),
    )


def _directives(job: TrainingJob) -> dict[str, str | int | None]:
    request, cluster = job.request, job.cluster
    counts = node_counts(job.recipe, cluster, request)
    most = request.nodes + request.spare_nodes
    ranged = request.min_nodes is not None and counts[0] < most
    found: dict[str, str | int | None] = {
        "job-name": job_name(job.recipe.name, job.run_dir),
        "nodes": f"{counts[0]}-{most}" if ranged else most,
        "ntasks-per-node": cluster.processes,
        **dict(node_directives(cluster)),
        "output": log_pattern(_log_of(job)),
        "open-mode": "append",
        "requeue" if request.requeue else "no-requeue": None,
    }
    if ranged:  # with tasks per node sbatch asks for those of the fewest nodes, and gets no more nodes
        del found["ntasks-per-node"]
        found["cpus-per-task"] = cluster.processes * (cluster.cpus_per_process or 1)
    if cluster.signal_margin_s:
        found["signal"] = f"USR1@{cluster.signal_margin_s}"
    if _survives_a_node(job, counts):
        found["no-kill"] = None
    if request.chain > 1:
        found["dependency"] = "singleton"
    return found | dict(further_directives(cluster))


def _survives_a_node(job: TrainingJob, counts: tuple[int, ...]) -> bool:
    return job.request.nodes + job.request.spare_nodes > counts[0]


def _log_of(job: TrainingJob) -> Path:
    """Slurm makes no folders."""
    if job.submitted:
        return launch_dir(job.run_dir) / "job-%j.out"
    return job.folder / f"{job_name(job.recipe.name, job.run_dir)}-%j.out"


def _supervisor(job: TrainingJob) -> Iterator[tuple[str, ...]]:
    cluster, request = job.cluster, job.request
    python = str(cluster.python or ("python" if cluster.container else sys.executable))
    watcher = str(cluster.supervisor_python or ("python3" if cluster.container else python))
    at_limit = "next" if request.chain > 1 else "requeue" if request.requeue else "end"
    yield watcher, "-m", "launch.slurm.supervise"
    yield "--run-dir", str(job.run_dir)
    counts = node_counts(job.recipe, cluster, request)
    yield "--nodes", ",".join(map(str, counts)), *(["--deputy"] if _survives_a_node(job, counts) else [])
    yield "--processes", str(cluster.processes), "--launcher", request.launcher
    yield "--tries", str(request.tries), *(["--requeue"] if request.requeue else []), "--at-time-limit", at_limit
    if request.health:
        limits = {"gpus": cluster.gpus_per_node, **cluster.health.model_dump()}
        yield from (("--health", f"{name}={value}") for name, value in limits.items())
        if cluster.scratch:
            yield "--scratch", str(cluster.scratch)
    mounted = [path for path in (job.folder, job.run_dir, job.code, cluster.scratch) if path]
    # Without a number of its own each task would be bound to one processor.
    cpus = f"--cpus-per-task={cluster.cpus_per_process}" if cluster.cpus_per_process else "--cpu-bind=none"
    yield (f"--srun-option={cpus}",)
    yield from ((f"--srun-option={option}",) for option in pyxis_options(cluster, job.folder, mounted))
    yield from ((f"--inside={word}",) for word in enter(cluster, job.folder, mounted))
    yield "--", python, "-m", "megatron_seed.train", *job.arguments
