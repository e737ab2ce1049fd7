"""Planned against measured peak memory of training on the CPU: how far `megatron-seed plan` can be trusted.

Each case is a recipe that is trained for a few steps as a user would, in processes of its own, and whose final
checkpoint is saved. Measured is the peak resident memory of its fullest rank, minus that of a process which imports the
same and joins the same process groups, but builds no model. This process imports no torch: a child's peak begins at
its parent's. Prints a table and writes JSON.

    python benchmarks/plan_memory.py --sizes 100M 200M 370M --out plan_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_seed.config.load import dump_recipe, parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.model.arithmetic import parameter_count
from megatron_seed.plan.activations import CPU_KERNELS
from megatron_seed.plan.hardware import Assumptions
from megatron_seed.plan.memory import RankMemory, memory_per_stage

VOCABULARY = 32_000
SEQUENCE_LENGTH = 512
SIZES = {
    "100M": {"preset": "seed_coder_100m", "num_layers": 14, "num_query_groups": 2},
    "200M": {"preset": "seed_coder_100m", "num_layers": 16, "hidden_size": 896, "ffn_hidden_size": 2432,
             "num_attention_heads": 14, "num_query_groups": 7},
    "370M": {"preset": "seed_coder_100m", "num_layers": 20, "hidden_size": 1152, "ffn_hidden_size": 3072,
             "num_attention_heads": 18, "num_query_groups": 9},
}  # fmt: skip
# What the smallest size is tried with besides: top-level keys of the recipe.
VARIANTS: dict[str, dict[str, Any]] = {
    "TP2": {"layout": {"tensor_parallel": 2}},
    "DP2": {},
    "recompute full": {"layout": {"recompute": "full"}},
    "loss in chunks": {"loss_chunk_tokens": 128},
    "asynchronous save": {"checkpoint": {"asynchronous": True, "every_steps": 1, "keep_last": 1}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--micro-batches", type=int, default=2, help="per step and replica, two sequences each")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("plan_memory.json"))
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    print(f"{'case':<26} {'parameters':>10} {'planned MB':>10} {'measured MB':>11} {'planned / measured':>18}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start("build", Path(folder) / "build", 1)
        for name, size, processes, changes in cases(arguments):
            recipe = make_recipe(size, changes, processes, arguments, Path(folder))
            rows.append({"case": name, **measure(recipe, processes, Path(folder))})
            print_row(rows[-1])
            arguments.out.write_text(json.dumps(rows, indent=1))


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Name, size, processes and changes of the recipe."""
    for size in arguments.sizes:
        for precision in arguments.precisions:
            yield f"{size} {precision}", size, 1, {"precision": precision}
    for variant in arguments.variants:
        size = arguments.sizes[0]
        changes = {"precision": "fp32", **VARIANTS[variant]}
        yield f"{size} fp32, {variant}", size, 2 if variant in ("TP2", "DP2") else 1, changes


def make_recipe(
    size: str, changes: dict[str, Any], processes: int, arguments: argparse.Namespace, folder: Path
) -> Recipe:
    replicas = 1 if changes.get("layout", {}).get("tensor_parallel", 1) > 1 else processes
    sequences = 2 * arguments.micro_batches * replicas
    phase = {
        "name": "main",
        "tokens": arguments.steps * sequences * SEQUENCE_LENGTH,
        "learning_rate": 1e-4,
        "blend": [{"name": "random", "builds": str(folder / "build")}],
        "sequence_length": SEQUENCE_LENGTH,
        "global_batch_size": sequences,
        "micro_batch_size": 2,
    }
    values = {
        "name": "plan_memory",
        "run_dir": str(folder / "run"),
        "model": {**SIZES[size], "vocab_size": VOCABULARY},
        "phases": [phase],
        "checkpoint": {"asynchronous": False},
        "logging": {"tensorboard": False, "wandb": "off"},
        **changes,
    }
    return parse_recipe(values, "benchmark")


def measure(recipe: Recipe, processes: int, folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    empty = max(start("empty", path, processes))
    peak = max(start("train", path, processes))
    subprocess.run(["rm", "-r", str(recipe.run_dir)], check=True)
    planned = plan_of(recipe, processes)
    return {
        "parameters": parameter_count(recipe.model),
        "processes": processes,
        "micro_batches": recipe.phases[0].global_batch_size // recipe.phases[0].micro_batch_size // processes,
        "planned_bytes": planned.total,
        "planned_kinds": planned.by_kind(),
        "measured_bytes": peak - empty,
        "empty_process_bytes": empty,
        "ratio": planned.total / (peak - empty),
    }


def plan_of(recipe: Recipe, processes: int) -> RankMemory:
    """The fullest rank, by the same code as for GPUs with the kernels of a CPU."""
    replicas = processes // recipe.layout.model_parallel_size
    stages = memory_per_stage(recipe, recipe.phases[0], recipe.layout, replicas, Assumptions(), CPU_KERNELS)
    return max(stages, key=lambda rank: rank.total)


def start(what: str, path: Path, processes: int) -> list[int]:
    """Run this file as a child; the peak memory that each of its processes reports, bytes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), __file__, "--child", what, str(path)]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{what} {path} failed:\n{result.stderr[-3000:]}")
    return [int(line.removeprefix("peak ")) for line in result.stdout.splitlines() if line.startswith("peak ")]


def child(what: str, path: str) -> None:
    from megatron_seed.config.load import load_recipe
    from megatron_seed.runtime import device
    from megatron_seed.runtime.groups import process_groups
    from megatron_seed.train.run import train

    if what == "build":
        write_build(path)
        return
    recipe = load_recipe(path)
    if what == "train":
        train(recipe)
    else:
        with process_groups(recipe.layout, recipe.seed):
            pass
    # One write, or the lines of two processes may mix.
    os.write(1, f"peak {device.peak_memory_bytes()}\n".encode())


def write_build(prefix: str) -> None:
    """Documents of random tokens."""
    import numpy as np
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    from megatron_seed.data.declare import Vocabulary, declare

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    generator = np.random.default_rng(0)
    for _ in range(100):
        builder.add_item(torch.from_numpy(generator.integers(0, VOCABULARY, 1000)))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    declare([prefix], Vocabulary.of_size(VOCABULARY))


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['case']:<26} {row['parameters'] / 1e6:>9.1f}M {row['planned_bytes'] / 1e6:>10,.0f} "
        f"{row['measured_bytes'] / 1e6:>11,.0f} {row['ratio']:>18.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
