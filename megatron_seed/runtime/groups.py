"""Process groups from whatever started this process: torchrun, srun, or nothing at all."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.config.validate import data_parallel_size
from megatron_seed.errors import SeedError
from megatron_seed.runtime import cpu_proxy, device, weight_gradient
from megatron_seed.runtime.shared_groups import shared_groups


@dataclass(frozen=True)
class Launch:
    """One process among those of a job."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int


@dataclass(frozen=True)
class Groups:
    """Where this process stands in the layout."""

    launch: Launch
    tensor_rank: int
    pipeline_rank: int
    pipeline_size: int
    context_rank: int
    context_size: int
    data_rank: int
    data_size: int
    last_stage: bool
    control: dist.ProcessGroup
    """All processes, over gloo: for small things that must not wait for the GPU."""

    @property
    def rank(self) -> int:
        return self.launch.rank

    @property
    def is_main(self) -> bool:
        """The process that speaks and writes."""
        return self.launch.rank == 0

    @property
    def data_group(self) -> dist.ProcessGroup:
        from megatron.core import parallel_state

        return parallel_state.get_data_parallel_group(with_context_parallel=True)

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes, known to all."""
        found = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return tuple(found.tolist())

    def gather(self, thing: Any) -> list[Any]:
        """What every process gives, by rank, known to all; small, and picklable."""
        things: list[Any] = [None] * self.launch.world_size
        dist.all_gather_object(things, thing, group=self.control)
        return things

    def gather_at_main(self, thing: Any) -> list[Any] | None:
        """What every process gives, by rank, on the main process; None on the others. Picklable, of any size."""
        # One by one: a collective would copy what is large in gloo's own thread, with a team of OpenMP's that stays.
        # With more of them than processors, those of training sleep at each barrier: a tenth of every later step.
        if not self.is_main:
            dist.send_object_list([thing], dst=0, group=self.control)
            return None
        things = [thing]
        for rank in range(1, self.launch.world_size):
            box = [None]
            dist.recv_object_list(box, src=rank, group=self.control)
            things += box
        return things

    def from_main(self, thing: Any) -> Any:
        """What the main process gives, known to all."""
        box = [thing]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Rank and rendezvous from torchrun's or Slurm's variables; a job of one process without either."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return Launch(
            rank=int(environ["RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ.get("LOCAL_RANK", 0)),
            local_world_size=int(environ.get("LOCAL_WORLD_SIZE", 1)),
            address=environ.get("MASTER_ADDR", "127.0.0.1"),
            port=int(environ.get("MASTER_PORT", 29500)),
        )
    # Those of the step, which only srun sets: a batch script has the job's variables too, but is one process.
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Launch(
            rank=int(environ["SLURM_PROCID"]),
            world_size=int(environ["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environ.get("SLURM_LOCALID", 0)),
            local_world_size=_tasks_on_this_node(environ),
            address=environ.get("MASTER_ADDR") or first_host(environ["SLURM_STEP_NODELIST"]),
            # Jobs that share a node must not share a port.
            port=int(environ.get("MASTER_PORT") or 20_000 + int(environ["SLURM_JOB_ID"]) % 20_000),
        )
    return Launch(0, 1, 0, 1, "127.0.0.1", _free_port())


def first_host(nodes: str) -> str:
    """First host of a Slurm node list: `gpu[007-010,12],login` gives `gpu007`."""
    match = re.match(r"^([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if not match:
        raise SeedError(f"SLURM_STEP_NODELIST {nodes!r} names no host")
    return match[1] + (match[2] or "") + match[3]


def _tasks_on_this_node(environ: Mapping[str, str]) -> int:
    """SLURM_STEP_TASKS_PER_NODE is such as `4(x2),3`: counts by node, in order."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.match(r"^(\d+)(?:\(x(\d+)\))?$", part)
        if match:
            counts += [int(match[1])] * int(match[2] or 1)
    node = int(environ.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process_groups(layout: LayoutConfig, seed: int, timeout_s: float = 1800.0) -> Iterator[Groups]:
    """Join the job and lay it out; leave cleanly at the end."""
    with job(timeout_s) as launch, laid_out(launch, layout, seed, timeout_s) as groups:
        yield groups


@contextlib.contextmanager
def job(timeout_s: float = 1800.0) -> Iterator[Launch]:
    """Join the processes of this job. `timeout_s` is the longest that a collective may take."""
    launch = read_launch()
    cpu_proxy.install()
    weight_gradient.install()
    device.use_threads(launch.local_world_size)
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if device.has_gpu():
        torch.cuda.set_device(launch.local_rank)
    dist.init_process_group(
        device.backend(),
        init_method=f"tcp://{launch.address}:{launch.port}",
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        yield launch
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def laid_out(launch: Launch, layout: LayoutConfig, seed: int, timeout_s: float = 1800.0) -> Iterator[Groups]:
    """Groups of a layout over the processes of the job, for as long as the context lasts; seeds the generators."""
    from megatron.core import parallel_state, tensor_parallel

    data_parallel_size(layout, launch.world_size)
    virtual = layout.virtual_pipeline if layout.virtual_pipeline > 1 else None
    with contextlib.ExitStack() as resources:
        resources.callback(parallel_state.destroy_model_parallel)
        if not device.has_gpu():
            resources.enter_context(shared_groups())
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor_parallel,
            pipeline_model_parallel_size=layout.pipeline_parallel,
            virtual_pipeline_model_parallel_size=virtual,
            context_parallel_size=layout.context_parallel,
            distributed_timeout_minutes=timeout_s / 60,
        )
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        resources.callback(dist.destroy_process_group, control)
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        yield _describe(launch, control)


def _describe(launch: Launch, control: dist.ProcessGroup) -> Groups:
    from megatron.core import parallel_state as state

    return Groups(
        launch=launch,
        tensor_rank=state.get_tensor_model_parallel_rank(),
        pipeline_rank=state.get_pipeline_model_parallel_rank(),
        pipeline_size=state.get_pipeline_model_parallel_world_size(),
        context_rank=state.get_context_parallel_rank(),
        context_size=state.get_context_parallel_world_size(),
        data_rank=state.get_data_parallel_rank(),
        data_size=state.get_data_parallel_world_size(),
        last_stage=state.get_pipeline_model_parallel_rank() == state.get_pipeline_model_parallel_world_size() - 1,
        control=control,
    )
