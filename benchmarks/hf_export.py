"""Export to Hugging Face against a copy of the same bytes that digests and fsyncs them too.

The checkpoint is random, written straight as torch_dist with the chunks of TP2, bf16. Export and copy take turns, with
the same number of threads and over files of the same sizes; each result is removed before the next turn. Peak memory is
that of a process of its own, for the model and for one with three times as many layers. Prints a table and writes JSON.

    python benchmarks/hf_export.py --workers 4 --repeats 5 --out hf_export.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from megatron_seed.checkpoint.digesting import DigestingFile
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.hf.architectures import architecture_of
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.mapping import Row
from megatron_seed.hf.plan import ExportPlan, plan_named
from megatron_seed.hf.slices import checkpoint_shape
from megatron_seed.hf.torch_dist import Part, write_torch_dist

GOAL = 0.7
BLOCK_BYTES = 2**20  # the fastest for the copy
# The kernel's own account of the process; what it tells a parent would include the parent's memory at the start.
EXPORT = """
from pathlib import Path
from launch.cli import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="16 make 1.1 billion parameters")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--shard-gb", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.add_argument("--out", type=Path, default=Path("hf_export.json"))
    arguments = parser.parse_args()
    results: dict = {"workers": arguments.workers, "shard_gb": arguments.shard_gb, "memory": []}
    for factor in (1, 3):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            config = shape(arguments.layers * factor)
            write_checkpoint(folder / "checkpoint", config)
            plan = plan_named(str(folder / "checkpoint"), None, int(arguments.shard_gb * 1e9))
            if factor == 1:
                results |= take_turns(folder, plan, arguments.workers, int(arguments.shard_gb * 1e9), arguments.repeats)
            results["memory"].append(peak_memory(folder, plan, arguments.workers, arguments.shard_gb))
    arguments.out.write_text(json.dumps(results, indent=1))


def shape(layers: int) -> ModelConfig:
    return ModelConfig(
        num_layers=layers,
        hidden_size=2048,
        ffn_hidden_size=8192,
        num_attention_heads=32,
        num_query_groups=8,
        head_dim=64,
        vocab_size=32_000,
    )


def write_checkpoint(folder: Path, config: ModelConfig) -> None:
    """Chunks as two tensor-parallel ranks write them."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    parts = [part for row in architecture_of(config).rows(config) for part in chunks(row, config)]

    def make(part: Part) -> torch.Tensor:
        return torch.empty(part.sizes, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)

    write_torch_dist(folder, parts, torch.bfloat16, make, {})
    (folder / "model.yaml").write_text(dump_recipe(config))


def chunks(row: Row, config: ModelConfig) -> Iterator[Part]:
    whole = checkpoint_shape(row, config)
    lead = [(layer,) for layer in range(whole[0])] if row.per_layer else [()]
    shape = whole[1:] if row.per_layer else whole
    axis = 1 if row.megatron.endswith(("linear_proj.weight", "linear_fc2.weight")) else 0
    ranks = 1 if len(shape) == 1 else 4 if row.megatron.endswith("linear_fc1.weight") else 2
    sizes = tuple(size // ranks if place == axis else size for place, size in enumerate(shape))
    for layer in lead:
        for rank in range(ranks):
            offsets = tuple(rank * sizes[axis] if place == axis else 0 for place in range(len(shape)))
            yield Part(row.megatron, whole, (*layer, *offsets), (*(1 for _ in layer), *sizes))


def take_turns(folder: Path, plan: ExportPlan, workers: int, shard_bytes: int, repeats: int) -> dict:
    """Seconds of each, median and all, and the rates' ratio."""
    source, target = folder / "source", folder / "target"
    export_hf(folder / "checkpoint", source, max_shard_size_bytes=shard_bytes, workers=workers)
    ways = {
        "export": lambda: export_hf(folder / "checkpoint", target, max_shard_size_bytes=shard_bytes, workers=workers),
        "copy": lambda: copy(source, target, list(plan.files), workers),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, way in list(ways.items())[:: -1 if turn % 2 else 1]:
            seconds[name].append(timed(way))
            shutil.rmtree(target)
    medians = {name: statistics.median(all_) for name, all_ in seconds.items()}
    ratios = [one / other for one, other in zip(seconds["copy"], seconds["export"], strict=True)]
    print(f"{plan.parameters / 1e9:.2f} billion parameters, {plan.size_bytes / 1e9:.2f} GB, {len(plan.files)} files")
    for name, median in medians.items():
        print(f"{name:>7}: {median:6.2f} s, {plan.size_bytes / median / 1e6:7.0f} MB/s")
    ratio = statistics.median(ratios)
    print(f"export / copy: {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}), goal {GOAL}")
    return {"size_bytes": plan.size_bytes, "seconds": seconds, "ratio": ratio, "ratios": ratios}


def timed(way: Callable[[], object]) -> float:
    os.sync()
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def copy(source: Path, target: Path, names: list[str], workers: int) -> None:
    target.mkdir()

    def one(name: str) -> None:
        with (source / name).open("rb", buffering=0) as reader, DigestingFile(target / name) as writer:
            block = bytearray(BLOCK_BYTES)
            while count := reader.readinto(block):
                writer.write(memoryview(block)[:count])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, names))


def peak_memory(folder: Path, plan: ExportPlan, workers: int, shard_gb: float) -> dict:
    """Of the command in a process of its own, beside the bound."""
    options = ["--workers", str(workers), "--shard-gb", str(shard_gb)]
    command = [sys.executable, "-c", EXPORT, "hf", "export", str(folder / "checkpoint"), str(folder / "out"), *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (peak_kib,) = (line.split()[1] for line in said.splitlines() if line.startswith("VmHWM:"))
    largest = max(source.elements for source in plan.sources.values()) * plan.dtype.itemsize
    bound = workers * max(plan.sizes.values()) + largest + 10**9
    peak = int(peak_kib) * 1024
    print(
        f"{plan.parameters / 1e9:.2f} billion parameters: peak memory {peak / 1e6:,.0f} MB, "
        f"planned {plan.memory_bytes(workers) / 1e6:,.0f} MB, bound {bound / 1e6:,.0f} MB"
    )
    return {"parameters": plan.parameters, "peak_bytes": peak, "bound_bytes": bound}


if __name__ == "__main__":
    main()
