"""The data loader alone: what it gives a second against what a training step takes, and opening thousands of builds.

The step is that of the 10M model on this machine, measured in the same run. Prints a table and writes JSON.

    python benchmarks/loader.py --out loader.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.declare import Vocabulary, declare
from megatron_seed.data.loader import PhaseData
from megatron_seed.runtime import device

SEQUENCE_LENGTH = 512
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("loader.json"))
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_many(sorted(str(path)[:-4] for path in arguments.open.glob("*.bin")))))
        return
    with tempfile.TemporaryDirectory() as folder:
        prefixes = [write_build(Path(folder) / f"build{number}", number) for number in range(arguments.files)]
        declare(prefixes, Vocabulary.of_size(8192))
        # In a process of its own: its memory is that of opening alone.
        command = [sys.executable, __file__, "--open", folder]
        opened = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        recipe = make_recipe(prefixes[:8], Path(folder))
        loader = loader_rate(recipe)
        step = step_rate(recipe, arguments.steps)
    rows = {"loader_tokens_per_second": loader, "step_tokens_per_second": step, "ratio": loader / step, **opened}
    print(f"loader        {loader:>12,.0f} tokens/s")
    print(f"training step {step:>12,.0f} tokens/s   ratio {loader / step:.0f}")
    print(f"{arguments.files} builds open in {opened['open_seconds']:.2f} s, {opened['open_memory_mb']:.0f} MB")
    arguments.out.write_text(json.dumps({"versions": device.versions(), **rows}, indent=1))


def write_build(prefix: Path, seed: int) -> str:
    """300 documents of some hundred tokens, as Megatron-LM writes them."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    generator = np.random.default_rng(seed)
    for _ in range(300):
        builder.add_item(torch.from_numpy(generator.integers(0, 8192, generator.integers(50, 1500))))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


def make_recipe(prefixes: list[str], folder: Path) -> Recipe:
    blend = [{"name": f"s{n}", "builds": prefix, "weight": n + 1} for n, prefix in enumerate(prefixes)]
    phase = {
        "name": "main",
        "tokens": 10**9,
        "learning_rate": 1e-4,
        "blend": blend,
        "sequence_length": SEQUENCE_LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": BATCH,
    }
    model = {"preset": "seed_coder_10m"}
    return parse_recipe(
        {"name": "loader", "run_dir": str(folder / "run"), "model": model, "precision": "fp32", "phases": [phase]}, ""
    )


def loader_rate(recipe: Recipe, batches: int = 400) -> float:
    """Tokens per second of batches ready for the model, the first epoch's order included."""
    data = PhaseData.open(recipe.phases[0], recipe.seed, recipe.model.vocab_size, {})
    began = time.perf_counter()
    for step in range(batches):
        for batch in data.micro_batches(step * BATCH, BATCH, 0, 1):
            assert batch["tokens"].shape == (BATCH, SEQUENCE_LENGTH)
    return batches * BATCH * SEQUENCE_LENGTH / (time.perf_counter() - began)


def step_rate(recipe: Recipe, steps: int) -> float:
    """Tokens per second of training steps, data included."""
    from megatron_seed.runtime.groups import process_groups
    from megatron_seed.train.run import start
    from megatron_seed.train.step import train_step

    with process_groups(recipe.layout, recipe.seed) as groups:
        run, _ = start(recipe, groups)
        data = PhaseData.open(recipe.phases[0], recipe.seed, recipe.model.vocab_size, {})
        seconds = []
        for step in range(steps + 1):
            began = time.perf_counter()
            train_step(run.models, run.optimizer, list(data.micro_batches(step * BATCH, BATCH, 0, 1)), groups)
            seconds.append(time.perf_counter() - began)
        run.recorder.close()
    return BATCH * SEQUENCE_LENGTH / statistics.median(seconds[1:])


def open_many(prefixes: list[str]) -> dict[str, float]:
    """Open every build of a blend as a run does at its start, and read one sample of each."""
    recipe = make_recipe(prefixes, Path("unused"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    data = PhaseData.open(recipe.phases[0], recipe.seed, recipe.model.vocab_size, {}, thorough=True)
    opened = time.perf_counter() - began
    for stream in data.streams:
        stream.read(0, SEQUENCE_LENGTH)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"files": len(prefixes), "open_seconds": opened, "open_memory_mb": (after - before) / 1024}


if __name__ == "__main__":
    main()
