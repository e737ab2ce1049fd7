"""`srun python -m launch.health OPTIONS`: what each node can say of itself before training starts on it.

Its GPUs and their free memory, its disks, its clock, and the rate of all-reduces within it and with a neighbour. The
first process of each node writes `NODE.json`, before the all-reduces and again after them, so that a node that hangs in
one has still told the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

_GPU_BYTES, _CPU_BYTES = 1 << 28, 1 << 22
_ROUNDS = 5
_TRIAL_BYTES = 1 << 22


def clock_skew_s(address: str) -> float:
    """This node's clock less the other's, half of the way there and back taken off."""
    host, _, port = address.rpartition(":")
    before = time.time()
    with socket.create_connection((host, int(port)), timeout=10.0) as connection:
        theirs = float(connection.recv(64))
    return (before + time.time()) / 2 - theirs


def free_gb(folder: Path, node: str) -> float:
    """Free space of a folder in which something could be written and forced to disk; OSError otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".health-{node}"
    try:
        with trial.open("wb") as file:
            file.write(os.urandom(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        trial.unlink(missing_ok=True)
    return shutil.disk_usage(folder).free / 1e9


def gpu_memory_free() -> list[float]:
    """Share of each visible GPU's memory that nobody holds."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(free / total)
    return found


def all_reduce_gb_per_s(address: str, port: int, rank: int, world_size: int, timeout_s: float) -> float:
    """Bus bandwidth, 2 (n - 1) / n of the bytes over the median round's time, as nccl-tests count it."""
    import torch
    import torch.distributed as dist

    local = int(os.environ["SLURM_LOCALID"])
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local)
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(address, port, world_size, is_master=rank == 0, timeout=timeout)
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
    try:
        size = _GPU_BYTES if gpu else _CPU_BYTES
        data = torch.ones(size // 4, device="cuda" if gpu else "cpu")
        times = []
        for _ in range(_ROUNDS + 1):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(data)
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        median = sorted(times[1:])[_ROUNDS // 2]
        return 2 * (world_size - 1) / world_size * size / median / 1e9
    finally:
        dist.destroy_process_group()


def own_state(options: argparse.Namespace, node: str) -> dict[str, Any]:
    """Everything but the network. What cannot be found out is an error of the node's."""
    errors: list[str] = []
    report: dict[str, Any] = {"node": node, "host": socket.gethostname(), "errors": errors, "disk_free_gb": {}}
    try:
        report["clock_skew_s"] = clock_skew_s(options.clock)
    except (OSError, ValueError) as error:
        errors.append(f"the job's first node cannot be reached from it: {error}")
    for folder in filter(None, (options.run_dir, options.scratch)):
        try:
            report["disk_free_gb"][str(folder)] = free_gb(folder, node)
        except OSError as error:
            errors.append(f"{folder} cannot be written: {error.strerror or error}")
    try:
        report["gpu_memory_free"] = gpu_memory_free()
    except (ImportError, RuntimeError) as error:
        errors.append(f"torch does not work: {str(error).splitlines()[0]}")
    return report


def write(folder: Path, report: Mapping[str, Any]) -> None:
    temporary = folder / f".{report['node']}.tmp"
    temporary.write_text(json.dumps(report), encoding="utf-8")
    temporary.rename(folder / f"{report['node']}.json")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.health")
    for name, kind in (
        ("--out", Path),
        ("--run-dir", Path),
        ("--groups", str),
        ("--clock", str),
        ("--timeout-s", float),
    ):
        parser.add_argument(name, type=kind, required=True)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # meant for training
    node, local = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"])
    processes = int(os.environ["SLURM_NTASKS_PER_NODE"])
    groups = [group.split("+") for group in options.groups.split(",")]
    number, group = next((number, group) for number, group in enumerate(groups) if node in group)
    report = own_state(options, node) if local == 0 else {}
    if local == 0:
        write(options.out, report)
    base = 20_000 + (int(os.environ["SLURM_JOB_ID"]) * 131 + int(os.environ["SLURM_STEP_ID"]) * 17) % 8_000
    if processes > 1:
        port = base + int(os.environ["SLURM_NODEID"])
        report["node_gb_per_s"] = all_reduce_gb_per_s("127.0.0.1", port, local, processes, options.timeout_s)
    if len(group) > 1:
        first = os.environ.get("MASTER_ADDR") or group[0]
        rank, world_size = group.index(node) * processes + local, len(group) * processes
        report["group_gb_per_s"] = all_reduce_gb_per_s(
            first, base + 10_000 + number, rank, world_size, options.timeout_s
        )
    if local == 0:
        write(options.out, {**report, "group": group})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
