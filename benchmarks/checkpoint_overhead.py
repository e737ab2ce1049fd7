"""What checkpoints cost a run on the CPU: the wall time of 200 steps with a save every 50 against none, and a resume.

Runs with and without saves take turns, each in a process of its own; the ratio is that of the medians. The clock runs
from the end of step 50 to the end of step 250, so that it has four saves in it from their beginning to their end, as
the middle of a long run has. A resume is timed from the start of its process to the end of its first step.
Prints a table and writes JSON.

On a machine that others load, wall time says little. `--by-cpu-time` counts processor seconds instead, of one thread:
those of a step, and those of a save with its threads, which are given no low priority here; 1 + save / (50 steps) is
the ratio of a run that has no processor to spare.

    python benchmarks/checkpoint_overhead.py --out checkpoint_overhead.json
    python benchmarks/checkpoint_overhead.py --quick        # 10M, two runs of each
    python benchmarks/checkpoint_overhead.py --by-cpu-time
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

# name: (preset, sequences of a step, sequence length); the first two so small that runs with saves can be repeated, the
# others with the steps of train_step.py.
SIZES = {
    "10M": ("seed_coder_10m", 2, 128),
    "100M": ("seed_coder_100m", 1, 64),
    "10M, 4 x 512": ("seed_coder_10m", 4, 512),
    "100M, 2 x 512": ("seed_coder_100m", 2, 512),
}
SAVE_EVERY = 50
STEPS = 4 * SAVE_EVERY
NEVER = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["10M", "100M"])
    parser.add_argument("--runs", type=int, default=5, help="with saves, and as many without")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--synchronous", action="store_true", help="training waits for saves")
    parser.add_argument("--quick", action="store_true", help="a trial")
    parser.add_argument("--by-cpu-time", action="store_true", help="for a machine that others load")
    parser.add_argument("--out", type=Path, default=Path("checkpoint_overhead.json"))
    parser.add_argument("--child", nargs=2, metavar=("RECIPE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        (child_by_cpu_time if arguments.by_cpu_time else child)(*map(Path, arguments.child))
        return
    if arguments.by_cpu_time:
        os.environ["OMP_NUM_THREADS"] = "1"
        rows = [measure_by_cpu_time(name) for name in arguments.sizes]
        arguments.out.write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1))
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    sizes, runs = (["10M"], 2) if arguments.quick else (arguments.sizes, arguments.runs)
    rows = []
    for name in sizes:
        rows.append(measure(name, runs, not arguments.synchronous))
        arguments.out.write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1))
    heads = ("model", "step s", "without s", "with s", "ratio", "waited s", "resume s", "ratios")
    print("".join(f"{head:>11}" for head in heads))
    for row in rows:
        numbers = (row[key] for key in ("step_s", "without_s", "with_s", "ratio", "waited_s", "resume_s"))
        told = "".join(f"{number:>11.3f}" for number in numbers)
        print(f"{row['model']:>11}{told}  {row['ratio_min']:.3f}-{row['ratio_max']:.3f}")


def measure(name: str, runs: int, asynchronous: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        place = Path(folder)
        write_data(place)
        results: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for number in range(runs):
            # Neither is always the first of its pair.
            for saves in (False, True) if number % 2 else (True, False):
                result = run(recipe(name, place, f"{name}-{number}-{saves}", saves, asynchronous))
                results[saves].append(result)
                print(f"{name} {'with' if saves else 'without'} saves: {result['window_s']:.2f} s", file=sys.stderr)
        # One step more, in the folder of a finished run.
        longer = recipe(name, place, f"{name}-0-True", True, asynchronous, steps=SAVE_EVERY + STEPS + 1)
        resumes = [run(longer)["first_step_s"]]
    without, with_ = ([result["window_s"] for result in results[saves]] for saves in (False, True))
    pairs = [one / other for one, other in zip(with_, without, strict=True)]
    return {
        "model": name,
        "asynchronous": asynchronous,
        "save_every": SAVE_EVERY,
        "steps": STEPS,
        "step_s": statistics.median(without) / STEPS,
        "without_s": statistics.median(without),
        "with_s": statistics.median(with_),
        "ratio": statistics.median(with_) / statistics.median(without),
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
        "waited_s": statistics.median(result["waited_s"] for result in results[True]),
        "resume_s": statistics.median(resumes),
        "runs": {str(saves): found for saves, found in results.items()},
    }


def measure_by_cpu_time(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        place = Path(folder)
        write_data(place)
        found = run(recipe(name, place, "counted", False, True), "--by-cpu-time")
        run(recipe(name, place, "resumed", False, True, steps=2))
        resumed = run(recipe(name, place, "resumed", False, True, steps=3))
    step_s, save_s = (statistics.median(found[key]) for key in ("step_cpu_s", "save_cpu_s"))
    row = {
        "model": name,
        "step_cpu_s": step_s,
        "save_cpu_s": save_s,
        "ratio": 1 + save_s / (SAVE_EVERY * step_s),
        "waited_s": statistics.median(found["waited_s"]),
        "resume_s": resumed["first_step_s"],
        "resume_cpu_s": resumed["first_step_cpu_s"],
        "all": found,
    }
    print("  ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)), name, flush=True)
    return row


def recipe(
    name: str, place: Path, run_name: str, saves: bool, asynchronous: bool, steps: int = SAVE_EVERY + STEPS
) -> Path:
    preset, sequences, length = SIZES[name]
    phase = {
        "name": "main",
        "tokens": steps * sequences * length,
        "learning_rate": 1e-4,
        "blend": [{"name": "random", "builds": str(place / "random")}],
        "sequence_length": length,
        "global_batch_size": sequences,
        "micro_batch_size": sequences,
    }
    values = {
        "name": run_name,
        "run_dir": str(place / run_name),
        "model": {"preset": preset},
        "precision": "fp32",
        "phases": [phase],
        "checkpoint": {
            "every_steps": SAVE_EVERY if saves else NEVER,
            "keep_last": 1,
            "asynchronous": asynchronous,
        },
        "logging": {"tensorboard": False, "wandb": "off"},
    }
    path = place / f"{run_name}-{steps}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_data(place: Path) -> None:
    """A build of random tokens, by a process that is not this one: here nothing loads torch."""
    script = (
        "import sys, numpy as np, torch\n"
        "from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder\n"
        "from megatron_seed.data.declare import Vocabulary, declare\n"
        "prefix, generator = sys.argv[1], np.random.default_rng(0)\n"
        "builder = IndexedDatasetBuilder(prefix + '.bin', dtype=np.uint16)\n"
        "for _ in range(200):\n"
        "    builder.add_item(torch.from_numpy(generator.integers(0, 8192, 2000)))\n"
        "    builder.end_document()\n"
        "builder.finalize(prefix + '.idx')\n"
        "declare([prefix], Vocabulary.of_size(8192))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(place / "random")], check=True)


def run(path: Path, *options: str) -> dict[str, Any]:
    out = path.with_suffix(".json")
    began = time.time()
    command = [sys.executable, "-W", "ignore", __file__, "--child", str(path), str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    return {**result, "first_step_s": result.get("first_step_time", began) - began}


def child(path: Path, out: Path) -> None:
    """Train a recipe, with a clock among its hooks."""
    from megatron_seed.config.load import load_recipe
    from megatron_seed.runtime.groups import process_groups

    loaded = load_recipe(path)
    with process_groups(loaded.layout, loaded.seed) as groups:
        from megatron_seed.train.hooks import Hook, StepRecord
        from megatron_seed.train.hooks.save import SaveHook
        from megatron_seed.train.loop import run_phases
        from megatron_seed.train.run import hooks_of, start

        class Clock(Hook):
            """Before the other hooks of each step."""

            def __init__(self) -> None:
                self.times: dict[int, float] = {}
                self.first_step_time = self.first_step_cpu_s = 0.0

            def after_step(self, record: StepRecord) -> None:
                self.first_step_time = self.first_step_time or time.time()
                self.first_step_cpu_s = self.first_step_cpu_s or time.process_time()
                self.times[record.progress.step] = time.perf_counter()

        training, progress = start(loaded, groups)
        clock, hooks = Clock(), hooks_of(training)
        (save,) = (hook for hook in hooks if isinstance(hook, SaveHook))
        run_phases(training, loaded.phases, progress, [clock, *hooks])
        training.recorder.close()
    window = clock.times.get(SAVE_EVERY + STEPS, 0.0) - clock.times.get(SAVE_EVERY, 0.0)
    result = {"window_s": window, "waited_s": save.spent_s, "first_step_time": clock.first_step_time,
              "first_step_cpu_s": clock.first_step_cpu_s}  # fmt: skip
    out.write_text(json.dumps(result))


def child_by_cpu_time(path: Path, out: Path, steps: int = 10, saves: int = 5) -> None:
    """Processor seconds of steps and of saves, all threads of this process together."""
    from megatron_seed.checkpoint import save as saving
    from megatron_seed.config.load import load_recipe
    from megatron_seed.runtime.groups import process_groups

    saving.lower_priority = lambda: None  # beside others' work the lowest would hardly run
    loaded = load_recipe(path)
    with process_groups(loaded.layout, loaded.seed) as groups:
        from megatron_seed.data.loader import PhaseData
        from megatron_seed.train.run import start
        from megatron_seed.train.step import train_step

        training, progress = start(loaded, groups)
        data = PhaseData.open(loaded.phases[0], loaded.seed, loaded.model.vocab_size, {})
        size = loaded.phases[0].global_batch_size
        saver = saving.Saver(loaded, training.models, training.optimizer, groups)
        saver.reserve()
        found: dict[str, list[float]] = {"step_cpu_s": [], "save_cpu_s": [], "waited_s": []}
        for number in range(steps):
            began = time.process_time()
            train_step(training.models, training.optimizer, list(data.micro_batches(number * size, size, 0, 1)), groups)
            found["step_cpu_s"].append(time.process_time() - began)
            if number % (steps // saves) == 0:
                began, called = time.process_time(), time.perf_counter()
                saver.save(progress.model_copy(update={"step": number + 1}))
                found["waited_s"].append(time.perf_counter() - called)
                saver.finish()
                found["save_cpu_s"].append(time.process_time() - began)
        training.recorder.close()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
