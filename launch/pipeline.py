"""A pipeline file: jobs of which each waits for others, submitted together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from launch.cluster import load_cluster
from launch.settings import Settings, load_settings
from launch.slurm import control
from launch.slurm.command import CommandJob, command_script
from launch.slurm.history import History
from launch.slurm.script import render
from launch.slurm.snapshot import installed_code, snapshot_code, submission_dir, write_files
from launch.slurm.submit import refuse_a_second_job, run_script, sbatch, submit_run
from launch.slurm.training import Request
from megatron_seed.errors import SeedError

Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class TrainStep(Settings):
    """As `megatron-seed launch run`."""

    recipe: str
    overrides: tuple[str, ...] = ()
    nodes: Positive
    spare_nodes: Annotated[int, Field(ge=0)] = 0
    min_nodes: Positive | None = None
    launcher: Literal["srun", "torchrun"] = "srun"
    tries: Positive = 3
    health: bool = True

    @property
    def request(self) -> Request:
        return Request(**self.model_dump(exclude={"recipe", "overrides"}))


class Step(Settings):
    name: Name
    cluster: Path
    """Cluster file."""
    after: tuple[Name, ...] = ()
    """Steps that must have ended well; one that did not takes those that wait for it out of the queue."""
    time: str | None = None
    """Limit; default: the cluster file's."""
    command: tuple[str, ...] = ()
    """Word by word, run on one node; `megatron-seed` is this program."""
    train: TrainStep | None = None

    @model_validator(mode="after")
    def _one_thing_to_do(self) -> Step:
        if bool(self.command) == bool(self.train):
            raise ValueError("give either `command` or `train`")
        return self


class Pipeline(Settings):
    folder: Path
    """For scripts, logs, and the snapshot of the code."""
    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _steps_wait_for_earlier_ones(self) -> Pipeline:
        known: set[str] = set()
        for step in self.steps:
            if step.name in known:
                raise ValueError(f"two steps are named {step.name}")
            unknown = [name for name in step.after if name not in known]
            if unknown:
                raise ValueError(f"step {step.name} waits for {', '.join(unknown)}, which is no step before it")
            known.add(step.name)
        return self


@dataclass(frozen=True)
class Submitted:
    step: str
    job: str
    after: Sequence[str]
    """Ids of the jobs that it waits for."""


def load_pipeline(path: Path) -> Pipeline:
    return load_settings(path, Pipeline)


def pipeline_scripts(pipeline: Pipeline) -> dict[str, str]:
    """The batch script of each step, to be read."""
    return {step.name: _script(step, pipeline, None, Path.cwd()) for step in pipeline.steps}


def submit_pipeline(pipeline: Pipeline) -> list[Submitted]:
    """Submit all steps, each with the code and the settings as they are now.

    Submitted again when all of its jobs have ended, every step does what is missing. Where Slurm refuses a step, those
    before it are cancelled.
    """
    base = Path.cwd() / pipeline.folder
    history = History(base)
    refuse_a_second_job(history)
    pipeline_scripts(pipeline)  # before anything is submitted
    folder, code = submission_dir(base), snapshot_code(base)
    done: dict[str, Submitted] = {}
    try:
        for step in pipeline.steps:
            waits = [done[name].job for name in step.after]
            done[step.name] = Submitted(step.name, _submit(step, pipeline, folder, code, waits), waits)
    except SeedError:
        with contextlib.suppress(control.SlurmError):  # the first error is the one to tell
            control.cancel([submitted.job for submitted in done.values()])
        raise
    history.add(
        "submitted",
        jobs=[submitted.job for submitted in done.values()],
        steps={name: submitted.job for name, submitted in done.items()},
    )
    return list(done.values())


def _submit(step: Step, pipeline: Pipeline, folder: Path, code: Path, waits: Sequence[str]) -> str:
    options = [f"--dependency=afterok:{':'.join(waits)}", "--kill-on-invalid-dep=yes"] if waits else []
    if step.train:
        # What it trains on may be made by a step before.
        (job,) = submit_run(
            step.train.recipe, step.train.overrides, step.cluster, step.train.request, step.time, options,
            checked=not waits,
        )  # fmt: skip
        return job
    name = f"{step.name}.sh"
    write_files(folder, {name: _script(step, pipeline, code, folder)})
    return sbatch(folder / name, options)


def _script(step: Step, pipeline: Pipeline, code: Path | None, logs: Path) -> str:
    if step.train:
        return run_script(step.train.recipe, step.train.overrides, step.cluster, step.train.request, step.time)
    cluster = load_cluster(step.cluster, step.time)
    log = logs / f"{step.name}-%j.out"
    job = CommandJob(step.name, step.command, cluster, Path.cwd(), code or installed_code(), log)
    return render(command_script(job))
