"""What GPUs and the machines around them can do, by their makers' data sheets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from megatron_seed.errors import SeedError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU and its share of the machine it sits in. Rates are dense (no sparsity), bandwidths one way."""

    name: str
    bf16_flops: float
    """Floating-point operations per second of matrix products."""
    fp8_flops: float | None
    """None: no FP8 units."""
    fp32_flops: float
    """Of matrix products whose inputs are fp32 in full (no TF32)."""
    memory_bytes: float
    memory_bytes_per_s: float
    nvlink_bytes_per_s: float
    """To the other GPUs of its machine, one way."""
    network_bytes_per_s: float
    """To other machines, one way, of this GPU's own adapter."""
    host_bytes_per_s: float
    """To its machine's memory, one way."""
    gpus_per_node: int = 8

    def flops(self, precision: str, fp8: bool) -> float:
        """Peak of the matrix products of a recipe; SeedError where the GPU has no such units."""
        if fp8 and self.fp8_flops is None:
            raise SeedError(f"fp8: {self.name} has no FP8 units; set fp8=off")
        if fp8:
            return self.fp8_flops
        return self.bf16_flops if precision == "bf16" else self.fp32_flops


GPUS: MappingProxyType[str, Gpu] = MappingProxyType(
    {
        # NVIDIA H100 Tensor Core GPU data sheet, column SXM: 1,979 and 3,958 TFLOPS "with sparsity" are twice the dense
        # 989.5 and 1,979; FP32 67 TFLOPS; 80 GB (as 80 GiB) at 3.35 TB/s; NVLink 900 GB/s both ways together; PCIe 5.0
        # x16 128 GB/s both ways together. NVIDIA DGX H100 data sheet: 8 GPUs, 8 ConnectX-7 of 400 Gb/s.
        "h100": Gpu("h100", 989e12, 1979e12, 67e12, 80 * GIB, 3.35e12, 450e9, 50e9, 64e9),
        # NVIDIA H200 Tensor Core GPU data sheet, SXM: as H100, but 141 GB at 4.8 TB/s. DGX H200: as DGX H100.
        "h200": Gpu("h200", 989e12, 1979e12, 67e12, 141e9, 4.8e12, 450e9, 50e9, 64e9),
        # Not in a public data sheet of NVIDIA's; as vendors list it: 148 TFLOPS BF16 dense, 296 FP8 dense, 44 FP32,
        # 96 GB at 4.0 TB/s, NVLink 900 GB/s. The machine around it: taken to be as HGX H100.
        "h20": Gpu("h20", 148e12, 296e12, 44e12, 96e9, 4.0e12, 450e9, 50e9, 64e9),
        # NVIDIA A100 Tensor Core GPU data sheet, 80GB SXM: BF16 312 TFLOPS, FP32 19.5; 80 GB (as 80 GiB) at 2,039 GB/s;
        # NVLink 600 GB/s and PCIe 4.0 64 GB/s both ways together. DGX A100 data sheet: 8 HDR adapters of 200 Gb/s.
        "a100": Gpu("a100", 312e12, None, 19.5e12, 80 * GIB, 2.039e12, 300e9, 25e9, 32e9),
        # NVIDIA DGX B200 data sheet, an eighth of the machine: 72 PFLOPS FP8 and half of that BF16 "with sparsity",
        # 1,440 GB at 64 TB/s, NVLink 14.4 TB/s both ways together, 400 Gb/s per GPU. FP32: NVIDIA's HGX page.
        "b200": Gpu("b200", 2250e12, 4500e12, 75e12, 180e9, 8.0e12, 900e9, 50e9, 64e9),
    }
)


def known_gpu(name: str | None) -> Gpu | None:
    """The GPU that a driver calls `name`, such as `NVIDIA H100 80GB HBM3`; None for one that is not in the table."""
    words = (name or "").lower().split()
    if "pcie" in words:  # other rates than those of the SXM modules
        return None
    return next((gpu for key, gpu in GPUS.items() if any(word.startswith(key) for word in words)), None)


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says. Those without a source are ours: to be replaced by what a cluster measures."""

    matrix_efficiency: float = 0.70
    """Share of the peak that large matrix products reach. On H200 at the 8B's width (docs/performance.md): 0.74
    in bf16, 0.68 in FP8."""
    attention_efficiency: float = 0.45
    """The same for attention, forward and backward. Measured there, cuDNN's, 8,192 tokens: 0.62 and 0.41."""
    bandwidth_efficiency: float = 0.70
    """Share of the memory bandwidth that element-wise kernels reach. Measured there, over an update: 0.71."""
    nvlink_efficiency: float = 0.75
    """Share of the one-way rate that collectives reach: nccl-tests within 8 H100 give 350 to 370 of 450 GB/s."""
    network_efficiency: float = 0.80
    collective_latency_s: float = 20e-6
    """Start of a collective or of a send to the next stage."""
    memory_margin: float = 0.06
    """Share of a GPU's memory that is left to the allocator's gaps."""
    cuda_context_bytes: float = 2.2e9
    """What a process holds of a GPU's memory beside its tensors: context, kernels, libraries' workspaces. Measured on
    H200, driver 580, CUDA 13."""
    communicator_bytes: float = 0.3e9
    """NCCL buffers per communicator of more than one rank."""
    storage_bytes_per_s: float = 2e9
    """Rate at which one node writes and reads checkpoints."""
    save_pause_s: float = 0.5
    """What a save costs training beside its copy: agreeing, polling, the next step's cold start."""
    restart_s: float = 600.0
    """From a failure to the first step after it, but for reading the checkpoint: noticing, a new node, starting."""
    mtbf_node_hours: float = 6334.0
    """Mean time between failures of one node. Llama 3 (Meta, 2024, section 3.3.4): 419 unexpected interruptions in 54
    days of 16,384 GPUs, 2,048 nodes: 54 x 24 x 2,048 / 419."""


_MAY_BE_ZERO = {
    "memory_margin",
    "cuda_context_bytes",
    "communicator_bytes",
    "collective_latency_s",
    "save_pause_s",
    "restart_s",
}


def override(gpu: Gpu, assumptions: Assumptions, changes: Mapping[str, float]) -> tuple[Gpu, Assumptions]:
    """Numbers replaced by name, wherever they stand; SeedError names what there is."""
    fields = {f.name for f in dataclasses.fields(Gpu) if f.name != "name"}
    own = {name: value for name, value in changes.items() if name in fields}
    others = {name: value for name, value in changes.items() if name not in fields}
    known = {f.name for f in dataclasses.fields(Assumptions)}
    for name, value in changes.items():
        if name not in fields | known:
            raise SeedError(f"assume {name}: no such number; known: {', '.join(sorted(fields | known))}")
        if not math.isfinite(value):
            raise SeedError(f"assume {name}={value}: must be a finite number")
        if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            raise SeedError(f"assume {name}={value}: must be above zero")
    if "gpus_per_node" in own:
        if own["gpus_per_node"] % 1:
            raise SeedError(f"assume gpus_per_node={own['gpus_per_node']}: must be a whole number")
        own["gpus_per_node"] = int(own["gpus_per_node"])
    return dataclasses.replace(gpu, **own), dataclasses.replace(assumptions, **others)
