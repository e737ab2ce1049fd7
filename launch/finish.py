"""What every quickstart ends with: its recipe, our own commands run as processes, a proven export, what it writes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.shards import write_atomic
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError

Row = dict[str, Any]
"""Of a run's metrics."""
_NEW_TOKENS = 64
_COMPLETION = "import os\n\ndef read_file(path):\n"
_INFILLING = ('def area(width, height):\n    """Area of a rectangle."""\n    return ', "\n\n\ndef main():\n")


def recipe_here(name: str, values: Sequence[str] = ()) -> Recipe:
    """A shipped recipe with this machine's precision and layout, and then `values`, key=value."""
    from megatron_seed.runtime import device

    gpu = ["precision=bf16", f"layout.tensor_parallel={min(2, device.count())}"] if device.has_gpu() else []
    return load_recipe(name, [*gpu, *values])


def quoted(paths: Mapping[str, Path]) -> list[str]:
    """key=value of a recipe, its paths quoted: YAML would read one such as `a: b` or `1e3` as something else."""
    texts = {key: yaml.safe_dump(str(path), default_style='"') for key, path in paths.items()}
    return [f"{key}={text}" for key, text in texts.items()]


def write_recipe(path: Path, recipe: Recipe) -> None:
    write_atomic(path, lambda stream: stream.write(dump_recipe(recipe).encode()))


def train(path: Path, recipe: Recipe, source: str | None = None) -> tuple[dict[str, Any], list[Row], list[Row]]:
    """Train a recipe, which is in a file, in processes of its own.

    Returns what any page says of it, and the steps and evaluations (of one `source`, or of all) that were logged.
    Raises SeedError where there are none of either.
    """
    from megatron_seed.model.arithmetic import parameter_count
    from megatron_seed.runtime import device
    from megatron_seed.train import metrics

    processes = recipe.layout.model_parallel_size
    run_command(["-m", "launch", "train", str(path), "--processes", str(processes)], "training")
    rows = list(metrics.read(recipe.run_dir))
    steps = [row for row in rows if row["kind"] == "train"]
    evaluations = [row for row in rows if row["kind"] == "evaluation" and source in (None, row["source"])]
    if not steps or not evaluations:
        raise SeedError(
            f"{recipe.run_dir / metrics.NAME} holds {len(steps)} steps and {len(evaluations)} evaluations, the report "
            "needs both: keep evaluation.held_out, and logging.every_steps below the number of steps"
        )
    facts = {
        "processes": processes,
        "layout": recipe.layout.model_dump(),
        "device": "GPU" if device.has_gpu() else "CPU",
        "steps": steps[-1]["step"],
        "tokens": steps[-1]["tokens"],
        "seconds": seconds_of(steps),
        "model": {"parameters": parameter_count(recipe.model), **recipe.model.model_dump()},
        "versions": device.versions(),
    }
    return facts, steps, evaluations


def seconds_of(steps: Sequence[Row], before: int = 0) -> float:
    """Of all steps after step `before`: those that no row tells of count as those of the row after them."""
    return sum(
        row["step_seconds"] * (row["step"] - last)
        for last, row in zip([before, *(row["step"] for row in steps)], steps, strict=False)
    )


def run_command(arguments: Sequence[str], what: str) -> None:
    """Run one of our own commands, on this terminal; it inherits the lock on the run folder."""
    # A folder named `launch` or `tokenizer` where the user stands must not be imported in place of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with subprocess.Popen([sys.executable, *arguments], close_fds=False, env=environment) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)  # the terminal has interrupted it too, and it stops its own workers
            child.terminate()
            raise
    if code:
        raise SeedError(f"{what} ended with exit code {code}, see above; the same command again goes on")


def export(train: Path, hf: Path) -> dict[str, Any]:
    """Export a run's last checkpoint and prove it, in processes of their own: megatron-core is not needed in this one.

    Returns path and checks (name, value, passed).
    """
    from megatron_seed.checkpoint.layout import resolve

    checkpoint = resolve(train)
    run_command(["-m", "launch", "hf", "export", str(checkpoint), str(hf)], "export")
    out = hf.with_name("verify.json")
    command = ["-m", "launch", "hf", "verify", str(checkpoint), str(hf), "--out", str(out)]
    run_command(command, "verification of the export")
    found = json.loads(out.read_text(encoding="utf-8"))
    checks = [{"name": "tensors equal bit for bit", "value": f"{found['tensors']} tensors", "passed": True}]
    for kind, difference in found["logit_difference"].items():
        name = f"logits of the {kind} prompt"
        checks.append({"name": name, "value": f"differ by {difference:.1e} of the largest", "passed": True})
    checks.append({"name": "greedy tokens", "value": f"{found['greedy_tokens']} alike", "passed": True})
    return {"path": str(hf), "checks": checks}


def generate(hf: Path, further: Sequence[dict[str, str]] = ()) -> list[dict[str, str]]:
    """One completion, one infilling and `further` samples, with nothing but transformers.

    Each is a kind, a prefix, a suffix where a gap is filled, and the model's greedy `output`. A prompt that leaves no
    room for it in the model's context is left out.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    samples = [
        {"kind": "completion", "prefix": _COMPLETION},
        {"kind": "infilling", "prefix": _INFILLING[0], "suffix": _INFILLING[1]},
        *further,
    ]
    written = []
    for sample in samples:
        text = sample["prefix"]
        if "suffix" in sample:
            text = f"<[fim-suffix]>{sample['suffix']}<[fim-prefix]>{sample['prefix']}<[fim-middle]>"
        prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        if prompt["input_ids"].shape[1] + _NEW_TOKENS > model.config.max_position_embeddings:
            continue
        output = model.generate(
            **prompt, max_new_tokens=_NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        written.append({**sample, "output": answer})
    return written


def machine() -> str:
    from megatron_seed.runtime import device

    where = "GPU over NCCL" if device.has_gpu() else "CPU over gloo"
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {where}"


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress
