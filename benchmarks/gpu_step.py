"""One GPU's training step at the 8B model's true width: tokens per second, MFU, memory, and what a layer costs.

Beside it, in the same run: a large bf16 matrix product on the same card, what `megatron-seed plan` says of the same
step and, with --peer, transformers' LlamaForCausalLM (bf16, sdpa, fused AdamW) compiled together with its loss. MFU is
causal (attention counted half), against the measured product and against the card's peak. A step is forward and
backward passes over `--micro-batches` micro-batches, clipping and the update. On a machine without a GPU it runs the
tiny model, to be tried.

    python benchmarks/gpu_step.py --layers 4 8 --fp8 off current --micro-batches 1 8 --peer 4 --out gpu_step.json
    python benchmarks/gpu_step.py --layers 4 --sequence-length 32768 --recompute full --loss-chunk-tokens 4096
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from megatron_seed.config.load import parse_recipe
from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig, Recipe
from megatron_seed.data.loader import Batch
from megatron_seed.model.arithmetic import flops_per_token, parameter_count
from megatron_seed.plan.hardware import Assumptions, known_gpu
from megatron_seed.plan.memory import memory_per_stage
from megatron_seed.plan.step_time import step_time
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups, process_groups

HOPPER_PEAK_FLOPS = 989e12
WARM_UP = 3
SHAPE = ("micro_batch_size", "micro_batches")
Step = Callable[[list[Batch]], float]


def main() -> None:
    arguments = parse()
    report = {
        "versions": {**device.versions(), **driver()},
        "matrix_product_flops": matrix_product_flops() if device.has_gpu() else None,
        "rows": [],
    }

    def add(name: str, recipe: Recipe, step: Step) -> None:
        row = {"name": name, **measure(recipe, step, arguments.steps, report["matrix_product_flops"])}
        report["rows"].append(row)
        print(line_of(row), flush=True)
        arguments.out.write_text(json.dumps({**report, "layers": layer_costs(report["rows"])}, indent=1))

    print(
        f"{device.gpu_name() or 'CPU'}, bf16 matrix product {(report['matrix_product_flops'] or 0) / 1e12:.0f} TFLOP/s"
    )
    shapes = list(itertools.product(arguments.micro_batch_size, arguments.micro_batches))
    for layers, fp8, chunk in itertools.product(arguments.layers, arguments.fp8, arguments.loss_chunk_tokens):
        recipes = [recipe_of(arguments, layers, fp8, chunk, *shape) for shape in shapes]
        with process_groups(recipes[0].layout, seed=0) as groups:
            step = ours(recipes[0], groups)
            for recipe in recipes:
                add(f"ours, fp8 {fp8}, loss chunk {chunk}", recipe, step)
            if arguments.profile:
                write_profile(arguments.profile, recipes[0], step)
            del step
        free()
    for layers in arguments.peer:
        recipes = [recipe_of(arguments, layers, "off", 0, *shape) for shape in shapes]
        step = peer(recipes[0].model)
        for recipe in recipes:
            add("transformers, compiled", recipe, step)
        del step
        free()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="seed_coder_8b" if device.has_gpu() else "seed_coder_tiny", choices=PRESETS)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--sequence-length", type=int, default=8192 if device.has_gpu() else 64)
    parser.add_argument("--micro-batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1], help="per step")
    parser.add_argument("--fp8", nargs="+", default=["off"], choices=["off", "current", "delayed"])
    parser.add_argument("--loss-chunk-tokens", type=int, nargs="+", default=[0])
    parser.add_argument("--recompute", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--no-fused-weight-gradient", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help=f"timed, after {WARM_UP}")
    parser.add_argument("--peer", type=int, nargs="+", default=[], metavar="LAYERS", help="also transformers, so deep")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="kernels of a step by their time, of each model")
    parser.add_argument("--out", type=Path, default=Path("gpu_step.json"))
    return parser.parse_args()


def recipe_of(
    arguments: argparse.Namespace, layers: int, fp8: str, chunk: int, micro_batch_size: int, micro_batches: int
) -> Recipe:
    sequences = micro_batch_size * micro_batches
    phase = {
        "name": "main",
        "tokens": sequences * arguments.sequence_length,
        "learning_rate": 1e-5,
        "blend": [{"name": "random", "builds": "none"}],
        "sequence_length": arguments.sequence_length,
        "global_batch_size": sequences,
        "micro_batch_size": micro_batch_size,
    }
    longest = max(arguments.sequence_length, PRESETS[arguments.preset]["max_sequence_length"])
    values = {
        "name": "gpu_step",
        "run_dir": "none",
        "model": {"preset": arguments.preset, "num_layers": layers, "max_sequence_length": longest},
        "precision": "bf16",
        "fp8": fp8,
        "loss_chunk_tokens": chunk,
        "fused_weight_gradient": not arguments.no_fused_weight_gradient,
        "layout": {"recompute": arguments.recompute},
        "phases": [phase],
    }
    return parse_recipe(values, "gpu_step")


def ours(recipe: Recipe, groups: Groups) -> Step:
    from megatron_seed.model.build import Compute, build_model
    from megatron_seed.optim.build import build_optimizer, set_learning_rate, wrap_data_parallel
    from megatron_seed.train.step import train_step

    compute = Compute(
        "bf16",
        fp8=recipe.fp8,
        fused_weight_gradient=recipe.fused_weight_gradient,
        loss_chunk_tokens=recipe.loss_chunk_tokens,
    )
    models = wrap_data_parallel(build_model(recipe.model, recipe.layout, compute, seed=0), recipe.layout)
    optimizer = build_optimizer(models, recipe.optimizer, recipe.layout, "bf16")
    set_learning_rate(optimizer, 1e-5)
    return lambda batches: train_step(models, optimizer, batches, groups).loss


def peer(config: ModelConfig) -> Step:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_query_groups,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_sequence_length,
    )
    with device.device():
        model = LlamaForCausalLM._from_config(shape, attn_implementation="sdpa", dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def loss_of(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = model(tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    compiled = torch.compile(loss_of) if device.has_gpu() else loss_of

    def step(batches: list[Batch]) -> float:
        optimizer.zero_grad()
        total = torch.zeros((), device=model.device)
        for batch in batches:
            loss = compiled(*(batch[name].to(model.device) for name in ("tokens", "labels"))) / len(batches)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step


def measure(recipe: Recipe, step: Step, steps: int, product: float | None) -> dict:
    phase, config = recipe.phases[0], recipe.model
    batches = batches_of(recipe)
    if device.has_gpu():
        torch.cuda.reset_peak_memory_stats()
    seconds, loss = [], 0.0
    for _ in range(WARM_UP + steps):
        device.synchronize()
        began = time.perf_counter()
        loss = step(batches)
        device.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[WARM_UP:])
    flops = flops_per_token(config, phase.sequence_length) * phase.tokens_per_step / median
    return {
        "layers": config.num_layers,
        "parameters": parameter_count(config),
        "sequence_length": phase.sequence_length,
        "recompute": recipe.layout.recompute,
        "micro_batch_size": phase.micro_batch_size,
        "micro_batches": len(batches),
        "step_seconds": median,
        "slowest_and_fastest": [max(seconds[WARM_UP:]), min(seconds[WARM_UP:])],
        "tokens_per_second": phase.tokens_per_step / median,
        "causal_mfu_of_989": flops / HOPPER_PEAK_FLOPS,
        "causal_mfu_of_product": flops / product if product else None,
        "peak_memory_bytes": device.peak_memory_bytes() + outside_of_torch(),
        "memory_between_steps_bytes": torch.cuda.memory_allocated() if device.has_gpu() else None,
        "memory_outside_of_torch_bytes": outside_of_torch(),
        "loss": loss,
        **planned(recipe),
    }


def batches_of(recipe: Recipe) -> list[Batch]:
    phase = recipe.phases[0]
    rows, length = phase.micro_batch_size, phase.sequence_length
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(phase.global_batch_size // rows):
        tokens = torch.randint(0, recipe.model.vocab_size, (rows, length + 1), generator=generator)
        found.append({"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous(),
                      "loss_mask": torch.ones(rows, length)})  # fmt: skip
    return found


def planned(recipe: Recipe) -> dict:
    """By `megatron-seed plan`; nothing on a machine whose GPU it does not know."""
    gpu = known_gpu(device.gpu_name())
    if gpu is None:
        return {}
    phase = recipe.phases[0]
    (memory,) = memory_per_stage(recipe, phase, recipe.layout, 1, Assumptions())
    seconds = step_time(recipe, phase, recipe.layout, 1, gpu, Assumptions())
    return {
        "planned_memory_bytes": memory.total,
        "planned_memory": {"moment": memory.moment, **memory.by_kind()},
        "planned_step_seconds": seconds.total,
        "planned_seconds": vars(seconds),
    }


def outside_of_torch() -> int:
    """Bytes of the card that are neither free nor torch's: the context, libraries' kernels and workspaces."""
    if not device.has_gpu():
        return 0
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return total_bytes - free_bytes - torch.cuda.memory_reserved()


def matrix_product_flops(size: int = 8192) -> float:
    """Of a bf16 product of two square matrices."""
    one, other = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    for _ in range(5):
        one @ other
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(30):
        one @ other
    torch.cuda.synchronize()
    return 30 * 2 * size**3 / (time.perf_counter() - began)


def layer_costs(rows: list[dict]) -> list[dict]:
    """Seconds of one more layer, and what share of the deeper model's step all that is no layer takes: embedding, head,
    loss and their update. From pairs of rows that differ in depth alone."""
    found = []
    for one, other in itertools.combinations(rows, 2):
        shallow, deep = sorted((one, other), key=lambda row: row["layers"])
        same = all(one[key] == other[key] for key in ("name", "sequence_length", "recompute", *SHAPE))
        if not same or shallow["layers"] == deep["layers"]:
            continue
        slope = (deep["step_seconds"] - shallow["step_seconds"]) / (deep["layers"] - shallow["layers"])
        found.append({
            **{key: deep[key] for key in ("name", "layers", *SHAPE)},
            "layer_seconds": slope,
            "share_of_the_rest": 1 - slope * deep["layers"] / deep["step_seconds"],
        })  # fmt: skip
    return found


def write_profile(path: Path, recipe: Recipe, step: Step) -> None:
    """Kernels of one step, longest first, and how much of the step's time the GPU was busy."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.has_gpu():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    batches = batches_of(recipe)
    with torch.profiler.profile(activities=kinds) as profile:
        began = time.perf_counter()
        step(batches)
        device.synchronize()
        seconds = time.perf_counter() - began
    table = profile.key_averages().table(
        sort_by="self_device_time_total" if device.has_gpu() else "self_cpu_time_total",
        row_limit=60,
        max_name_column_width=110,
    )
    model, phase = recipe.model, recipe.phases[0]
    with path.open("a", encoding="utf-8") as file:
        print(
            f"{model.num_layers} layers, fp8 {recipe.fp8}, {phase.tokens_per_step} tokens: {seconds:.4f} s", file=file
        )
        print(table, file=file)


def line_of(row: dict) -> str:
    shape = f"{row['layers']} layers, {row['micro_batches']} x {row['micro_batch_size']} x {row['sequence_length']}"
    text = (
        f"{row['name']:<34} {shape:<24} {row['step_seconds'] * 1e3:>8.1f} ms "
        f"{row['tokens_per_second']:>9,.0f} tokens/s  "
        f"MFU {row['causal_mfu_of_989']:.3f}  {row['peak_memory_bytes'] / 1e9:.1f} GB  loss {row['loss']:.3f}"
    )
    if "planned_step_seconds" in row:
        text += f"  planned {row['planned_step_seconds'] * 1e3:.1f} ms, {row['planned_memory_bytes'] / 1e9:.1f} GB"
    return text


def driver() -> dict:
    if not device.has_gpu():
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=True)
    return {"cuda": torch.version.cuda, "driver": answer.stdout.strip()}


def free() -> None:
    gc.collect()
    if device.has_gpu():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
