"""One GPU's training step at the 8B model's true width: tokens per second, MFU, memory, and what a layer costs.

Beside it, in the same run, a large bf16 matrix product on the same card and, with --peer, transformers'
LlamaForCausalLM with torch.compile and sdpa. MFU is causal (attention counted half) and given against the measured
product and against the card's peak. On a machine without a GPU it runs the tiny model, to be tried.

    python benchmarks/gpu_step.py --layers 4 8 --fp8 off current --loss-chunk-tokens 0 2048 --peer --out gpu_step.json
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig, OptimizerConfig
from megatron_seed.data.loader import Batch
from megatron_seed.model.arithmetic import flops_per_token, parameter_count
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups, process_groups

H100_PEAK_FLOPS = 989e12


def main() -> None:
    arguments = parse()
    gpu = device.has_gpu()
    preset = arguments.preset if gpu else "seed_coder_tiny"
    length = arguments.sequence_length if gpu else 64
    rows = []
    product = matrix_product_flops() if gpu else None
    with process_groups(LayoutConfig(recompute=arguments.recompute), seed=0) as groups:
        for layers, fp8, chunk in itertools.product(arguments.layers, arguments.fp8, arguments.loss_chunk_tokens):
            config = ModelConfig(**{**PRESETS[preset], "num_layers": layers})
            step = ours(config, groups, arguments, fp8, chunk)
            name = f"{device_name()} {layers} layers, fp8 {fp8}, loss chunk {chunk}"
            rows.append(measure(name, config, length, arguments, step, product))
            del step
            free()
        if arguments.peer:
            config = ModelConfig(**{**PRESETS[preset], "num_layers": arguments.layers[0]})
            rows.append(measure("transformers, compiled", config, length, arguments, peer(config, gpu), product))
    report = {"versions": device.versions(), "matrix_product_flops": product, "rows": rows}
    report["layer_seconds"] = layer_slope(rows)
    for row in rows:
        print(json.dumps(row))
    arguments.out.write_text(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="seed_coder_8b", choices=PRESETS)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--sequence-length", type=int, default=8192)
    parser.add_argument("--micro-batch-size", type=int, default=1)
    parser.add_argument("--fp8", nargs="+", default=["off"], choices=["off", "current", "delayed"])
    parser.add_argument("--loss-chunk-tokens", type=int, nargs="+", default=[0])
    parser.add_argument("--recompute", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--no-fused-weight-gradient", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu_step.json"))
    return parser.parse_args()


def ours(
    config: ModelConfig, groups: Groups, arguments: argparse.Namespace, fp8: str, chunk: int
) -> Callable[[Batch], float]:
    from megatron_seed.model.build import Compute, build_model
    from megatron_seed.optim.build import build_optimizer, set_learning_rate, wrap_data_parallel
    from megatron_seed.train.step import train_step

    layout = LayoutConfig(recompute=arguments.recompute)
    fused = not arguments.no_fused_weight_gradient
    compute = Compute("bf16", fp8=fp8, fused_weight_gradient=fused, loss_chunk_tokens=chunk)
    models = wrap_data_parallel(build_model(config, layout, compute, seed=0), layout)
    optimizer = build_optimizer(models, OptimizerConfig(), layout, "bf16")
    set_learning_rate(optimizer, 1e-5)
    return lambda batch: train_step(models, optimizer, [batch], groups).loss


def peer(config: ModelConfig, gpu: bool) -> Callable[[Batch], float]:
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
    model = LlamaForCausalLM._from_config(shape, attn_implementation="sdpa", dtype=torch.bfloat16)
    model = model.to("cuda" if gpu else "cpu")
    compiled = torch.compile(model) if gpu else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        tokens, labels = (batch[name].to(model.device) for name in ("tokens", "labels"))
        logits = compiled(tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def measure(
    name: str,
    config: ModelConfig,
    length: int,
    arguments: argparse.Namespace,
    step: Callable[[Batch], float],
    product: float | None,
) -> dict:
    rows = arguments.micro_batch_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (rows, length + 1), generator=generator)
    batch = {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    batch["loss_mask"] = torch.ones(rows, length)
    if device.has_gpu():
        torch.cuda.reset_peak_memory_stats()
    seconds, loss = [], 0.0
    for _ in range(arguments.steps + 3):
        device.synchronize()
        began = time.perf_counter()
        loss = step(batch)
        device.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[3:])
    flops = flops_per_token(config, length) * rows * length / median
    return {
        "name": name,
        "layers": config.num_layers,
        "parameters": parameter_count(config),
        "step_seconds": median,
        "tokens_per_second": rows * length / median,
        "flops_per_second": flops,
        "causal_mfu_of_989": flops / H100_PEAK_FLOPS,
        "causal_mfu_of_measured": flops / product if product else None,
        "peak_memory_gib": device.peak_memory_bytes() / 2**30,
        "loss": loss,
    }


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


def layer_slope(rows: list[dict]) -> float | None:
    """Seconds that one more layer costs, from the first two depths of the same settings."""
    depths = {row["layers"]: row["step_seconds"] for row in reversed(rows) if "transformers" not in row["name"]}
    if len(depths) < 2:
        return None
    (shallow, fast), (deep, slow) = sorted(depths.items())[:2]
    return (slow - fast) / (deep - shallow)


def device_name() -> str:
    return torch.cuda.get_device_name() if device.has_gpu() else "CPU"


def free() -> None:
    gc.collect()
    if device.has_gpu():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
