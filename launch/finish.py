"""What every quickstart ends with: our own commands run as processes, an export that is proved, and what it writes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from megatron_seed.errors import SeedError

COMPLETION = "import os\n\ndef read_file(path):\n"
INFILLING = ('def area(width, height):\n    """Area of a rectangle."""\n    return ', "\n\n\ndef main():\n")


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


def generate(hf: Path) -> list[dict[str, str]]:
    """One completion and one infilling, with nothing but transformers."""
    samples = [
        {"kind": "completion", "prefix": COMPLETION},
        {"kind": "infilling", "prefix": INFILLING[0], "suffix": INFILLING[1]},
    ]
    return write_on(hf, samples)


def write_on(hf: Path, samples: list[dict[str, str]], new_tokens: int = 64) -> list[dict[str, str]]:
    """Each sample (kind, prefix, and suffix where a gap is filled) with the model's greedy `output`.

    A prompt that leaves no room for `new_tokens` in the model's context is left out.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    written = []
    for sample in samples:
        text = sample["prefix"]
        if "suffix" in sample:
            text = f"<[fim-suffix]>{sample['suffix']}<[fim-prefix]>{sample['prefix']}<[fim-middle]>"
        prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        if prompt["input_ids"].shape[1] + new_tokens > model.config.max_position_embeddings:
            continue
        output = model.generate(
            **prompt, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
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
