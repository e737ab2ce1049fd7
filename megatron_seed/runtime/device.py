"""What this process computes on."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def has_gpu() -> bool:
    return torch.cuda.is_available()


def count() -> int:
    """GPUs of this machine."""
    return torch.cuda.device_count()


def has_transformer_engine() -> bool:
    """TransformerEngine can be used: it is installed and there is a GPU."""
    return has_gpu() and importlib.util.find_spec("transformer_engine") is not None


def device(local_rank: int = 0) -> torch.device:
    """The GPU of this process, or the CPU."""
    return torch.device("cuda", local_rank) if has_gpu() else torch.device("cpu")


def backend() -> str:
    """Collectives over NCCL on GPUs, over gloo on CPUs."""
    return "nccl" if has_gpu() else "gloo"


def synchronize() -> None:
    """Wait for the GPU, so that a clock read next tells the truth; nothing on a CPU."""
    if has_gpu():
        torch.cuda.synchronize()


def gpu_name() -> str | None:
    """As its driver calls it, None without a GPU."""
    return torch.cuda.get_device_name() if has_gpu() else None


class Stopwatch:
    """Runs from when it is made; measures the GPU's time, not that of queueing work for it."""

    def __init__(self) -> None:
        self._began = _mark()

    def stop(self) -> Callable[[], float]:
        """Ends the measurement without waiting; the result does, and gives seconds."""
        began, ended = self._began, _mark()
        return lambda: _seconds_between(began, ended)


def _mark() -> Any:
    if not has_gpu():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(began: Any, ended: Any) -> float:
    if not has_gpu():
        return ended - began
    ended.synchronize()
    return began.elapsed_time(ended) / 1000.0


def peak_memory_bytes() -> int:
    """Most memory held so far: allocated on the GPU, or resident in this process."""
    if has_gpu():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def use_threads(local_world_size: int) -> None:
    """Share the CPU's cores among the processes of this machine, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    elif not has_gpu():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))


def versions() -> dict[str, Any]:
    """Versions of what decides the numbers, for run folders and checkpoints."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "megatron-core", "transformer-engine", "numpy", "megatron-seed"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    revision = git_revision()
    if revision:
        found["git"] = revision
    if has_gpu():
        found["gpu"] = gpu_name()
    return found


def git_revision() -> str | None:
    """Commit of the checkout that this package runs from, None for an installed one."""
    git = Path(__file__).parents[2] / ".git"
    try:
        if git.is_file():  # a linked work tree
            git = Path(git.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").exists() else git
        if (common / name).is_file():
            return (common / name).read_text(encoding="utf-8").strip()
        packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:
        return None
