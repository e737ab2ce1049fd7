"""Training step on the CPU, side by side with `transformers` LlamaForCausalLM (sdpa) and torch AdamW.

Same weights, batches, threads, clipping and learning rate; steps interleaved, so that a noisy machine is noisy for
both; losses must agree to 1e-4 at every step. Prints a table and writes JSON.

    python benchmarks/train_step.py --threads 2 --out train_step.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from megatron_seed.checkpoint.save import save_checkpoint
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.loader import Batch
from megatron_seed.optim.build import set_learning_rate
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups, process_groups

LEARNING_RATE = 1e-4
# name: (preset, sequences, sequence length)
SIZES = {"10M": ("seed_coder_10m", 4, 512), "100M": ("seed_coder_100m", 2, 512)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=12, help="timed steps, after two that are not")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("train_step.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [measure(name, arguments.steps, arguments.threads) for name in arguments.sizes]
    print(f"{'model':>6} {'ours tok/s':>11} {'peer tok/s':>11} {'ratio':>6} {'spread':>13} {'loss differs':>13}")
    for row in rows:
        spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
        print(
            f"{row['model']:>6} {row['ours']:>11,.0f} {row['peer']:>11,.0f} {row['ratio']:>6.2f} {spread:>13} "
            f"{row['loss_difference']:>13.1e}"
        )
    arguments.out.write_text(json.dumps({"versions": device.versions(), "rows": rows}, indent=1))


def measure(name: str, steps: int, threads: int) -> dict:
    """Median over pairs of neighbouring steps of (peer's time / our time)."""
    preset, sequences, length = SIZES[name]
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(preset, sequences, length, Path(folder))
        with process_groups(recipe.layout, recipe.seed) as groups:
            torch.set_num_threads(threads)
            ours, checkpoint = _ours(recipe, groups)
            peer = _peer(checkpoint, Path(folder) / "hf")
            ours_s, peer_s, difference = _interleave(ours, peer, steps, recipe.model.vocab_size, sequences, length)
    ratios = [theirs / mine for mine, theirs in zip(ours_s, peer_s, strict=True)]
    tokens = sequences * length
    return {
        "model": name,
        "threads": threads,
        "ours": tokens / statistics.median(ours_s),
        "peer": tokens / statistics.median(peer_s),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "loss_difference": difference,
    }


def _recipe(preset: str, sequences: int, length: int, folder: Path) -> Recipe:
    phase = {
        "name": "main",
        "tokens": 1,
        "learning_rate": LEARNING_RATE,
        "blend": [{"name": "random", "builds": "none"}],
        "sequence_length": length,
        "global_batch_size": sequences,
        "micro_batch_size": sequences,
    }
    values = {"name": "bench", "run_dir": str(folder), "model": {"preset": preset}, "precision": "fp32"}
    return parse_recipe({**values, "phases": [phase]}, "benchmark")


def _ours(recipe: Recipe, groups: Groups) -> tuple[Callable[[Batch], float], Path]:
    from megatron_seed.train.run import start
    from megatron_seed.train.step import train_step

    run, _ = start(recipe, groups)
    checkpoint = save_checkpoint(recipe, Progress(), run.models, run.optimizer, groups)
    set_learning_rate(run.optimizer, LEARNING_RATE)

    def step(batch: Batch) -> float:
        return train_step(run.models, run.optimizer, [batch], groups).loss

    return step, checkpoint


def _peer(checkpoint: Path, folder: Path) -> Callable[[Batch], float]:
    from transformers import LlamaForCausalLM

    from megatron_seed.hf.export import export_hf

    export_hf(checkpoint, folder)
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).train()
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        logits = model(batch["tokens"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def _batches(vocab_size: int, sequences: int, length: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        tokens = torch.randint(0, vocab_size, (sequences, length + 1), generator=generator)
        mask = torch.ones(sequences, length)
        yield {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous(), "loss_mask": mask}


def _interleave(
    ours: Callable[[Batch], float], peer: Callable[[Batch], float], steps: int, *shape: int
) -> tuple[list[float], list[float], float]:
    times: tuple[list[float], list[float]] = ([], [])
    difference = 0.0
    batches = _batches(*shape)
    for number in range(steps + 2):
        batch = next(batches)
        losses = []
        # Who goes first alternates.
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            losses.append((which, (ours, peer)[which](batch)))
            if number >= 2:
                times[which].append(time.perf_counter() - began)
        difference = max(difference, abs(losses[0][1] - losses[1][1]))
    if difference > 1e-4:
        raise SystemExit(f"losses differ by {difference}: the two do not compute the same")
    return *times, difference


if __name__ == "__main__":
    main()
