"""Variables that NCCL, TransformerEngine and torch read, as jobs set them: one table, shown in docs/slurm.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import ClusterConfig


@dataclass(frozen=True)
class Variable:
    name: str
    value: str
    why: str


GPU_VARIABLES = (
    Variable(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "kernels run in the order in which they were queued: megatron-core's overlap of tensor-parallel "
        "communication relies on it (up to Hopper)",
    ),
    Variable(
        "NCCL_NVLS_ENABLE",
        "0",
        "no NVLink SHARP: its buffers cost each GPU memory, for sums that overlap hides; try 1 where TP waits",
    ),
    Variable(
        "PYTORCH_CUDA_ALLOC_CONF",
        "expandable_segments:True",
        "the allocator grows what it holds instead of splitting it: fewer gaps when sizes vary",
    ),
    Variable(
        "NVTE_FWD_LAYERNORM_SM_MARGIN",
        "8",
        "multiprocessors that norms of the forward pass leave to the sends of pipeline stages that run beside them",
    ),
    Variable("NVTE_BWD_LAYERNORM_SM_MARGIN", "8", "the same in the backward pass"),
)
"""Set where nodes have GPUs; a cluster file's `environment` goes before any of them."""


def variables(cluster: ClusterConfig) -> dict[str, str]:
    """All variables of a job, in the order in which its script sets them."""
    return {**dict(_defaults(cluster)), **cluster.environment}


def _defaults(cluster: ClusterConfig) -> Iterator[tuple[str, str]]:
    if cluster.gpus_per_node:
        yield from ((variable.name, variable.value) for variable in GPU_VARIABLES)
    if cluster.cpus_per_process:
        yield "OMP_NUM_THREADS", str(cluster.cpus_per_process)
    if cluster.network_interface:
        yield from ((f"{who}_SOCKET_IFNAME", cluster.network_interface) for who in ("NCCL", "GLOO"))
    if cluster.infiniband:
        yield "NCCL_IB_HCA", cluster.infiniband
    if cluster.scratch:
        yield from ((name, str(Path(cluster.scratch) / folder)) for name, folder in _CACHES.items())


_CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
