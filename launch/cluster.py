"""The cluster file: what a batch job has to know about the machines it runs on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from launch.settings import Settings, load_settings

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(pattern=r"^[\w.,:+@/=&|*()\[\]-]+$")]
"""A name as Slurm gives them; nothing that ends a directive."""


class Container(Settings):
    """The image that training runs in; the batch script itself, and its supervisor, run outside."""

    image: str
    """A file, or what the runtime takes as an address (pyxis: `registry#name:tag`)."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis: srun's `--container-image`; apptainer: `apptainer exec --nv` before each process."""
    mounts: tuple[str, ...] = ()
    """SOURCE:TARGET, or a folder that has the same name inside; the run folder, the snapshot of the code and the
    folder that the command was given in are mounted anyway."""


class HealthLimits(Settings):
    """What a node must show before a job starts on it; see `launch/health.py`."""

    gpu_memory_free: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of each GPU's memory that nobody holds."""
    disk_free_gb: Annotated[float, Field(ge=0)] = 10.0
    """In the run folder and in `scratch`."""
    clock_skew_s: Annotated[float, Field(gt=0)] = 5.0
    """Between the node's clock and that of the job's first node."""
    all_reduce_gb_per_s: Annotated[float, Field(ge=0)] = 0.0
    """Bus bandwidth that an all-reduce must reach within a node, and between a node and another; 0 sets no limit."""
    all_reduce_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The same as a share of the median node's."""
    timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """A node that has not answered by then is bad."""


class ClusterConfig(Settings):
    """One kind of node of one cluster."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    reservation: Word | None = None
    constraint: Word | None = None
    time: Annotated[str, Field(pattern=r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2})$")] = "24:00:00"
    """Limit of a job as Slurm writes it: minutes, hours:minutes:seconds or days-hours:minutes:seconds."""
    gpus_per_node: NotNegative = 8
    """0 for nodes without: training runs over gloo."""
    gpu_request: Literal["gpus", "gres"] = "gpus"
    """How GPUs are asked for: `--gpus-per-node` or, on older clusters, `--gres=gpu:N`."""
    processes_per_node: Positive | None = None
    """Default: one for each GPU."""
    cpus_per_process: Positive | None = None
    exclusive: bool = True
    """Whole nodes with all of their memory."""
    memory_gb: Positive | None = None
    """Of each node; default: all of it, or the partition's default on nodes that are shared."""
    python: Path | None = None
    """The interpreter of a virtual environment that all nodes see, or the one inside the container. Default: the one
    that the command runs on."""
    supervisor_python: Path | None = None
    """Python 3.11 or newer on the nodes, for the supervisor, which needs no package. Default: `python`, and `python3`
    with a container."""
    container: Container | None = None
    modules: tuple[str, ...] = ()
    """Of environment modules, loaded in this order."""
    source: tuple[Path, ...] = ()
    """Files of shell that the batch script reads, after the modules: the place for whatever else a site needs."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of all processes; they go before those of `launch/slurm/environment.py`."""
    network_interface: Word | None = None
    """Of the addresses that processes meet at, such as `bond0`; a prefix is enough. Default: the libraries' guess."""
    infiniband: Word | None = None
    """Adapters for NCCL (`NCCL_IB_HCA`), such as `mlx5_0,mlx5_1`; default: all that NCCL finds."""
    scratch: Path | None = None
    """A folder on each node's own disk, for compilers' caches; training needs none."""
    signal_margin_s: NotNegative = 600
    """So long before the time limit SIGUSR1 has training save and end; Slurm may send it a minute earlier. 0: none."""
    health: HealthLimits = HealthLimits()
    sbatch: dict[str, str | int] = Field(default_factory=dict)
    """Further directives by name, such as `switches: 1`; empty text for those without a value."""

    @field_validator("environment")
    @classmethod
    def _names_of_variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} cannot be the name of a variable")
            if "\0" in text:
                raise ValueError(f"{name} holds a zero byte")
        return value

    @field_validator("sbatch")
    @classmethod
    def _names_of_directives(cls, value: dict[str, str | int]) -> dict[str, str | int]:
        for name, text in value.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"{name!r} is no directive: write it as sbatch's long option, without the dashes")
            if re.search(r"[\n\r\0]", str(text)):
                raise ValueError(f"{name}: a directive cannot hold a line break")
        return value

    @model_validator(mode="after")
    def _processes_use_all_gpus(self) -> ClusterConfig:
        if self.gpus_per_node and self.processes_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"processes_per_node {self.processes_per_node} is not gpus_per_node {self.gpus_per_node}: each "
                "process has one GPU"
            )
        return self

    @model_validator(mode="after")
    def _there_is_time_before_the_signal(self) -> ClusterConfig:
        if seconds(self.time) <= self.signal_margin_s:
            raise ValueError(
                f"time {self.time} is over before the {self.signal_margin_s} s of signal_margin_s: training would be "
                "told to stop at once"
            )
        return self

    @property
    def processes(self) -> int:
        """Of each node."""
        return self.processes_per_node or self.gpus_per_node or 1


def seconds(time: str) -> int:
    """A time limit as Slurm writes it: MM, MM:SS, HH:MM:SS, DD-HH, DD-HH:MM or DD-HH:MM:SS."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, (minutes, secs) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


def load_cluster(path: Path, time: str | None = None) -> ClusterConfig:
    """Read a cluster file, with another time limit where one is given.

    SeedError names file, line and key, and for an unknown key the nearest known one.
    """
    return load_settings(path, ClusterConfig, {"time": time} if time else {})
