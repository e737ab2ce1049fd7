"""A small model of the Llama structure, pretrained by the project's commands on what a split of a corpus trains on.

The quickstart's recipe (4 layers, width 256) with a vocabulary of 4,096: 5 million parameters, minutes on one core.
"""

import subprocess
import sys
from pathlib import Path

from data_prep.held_out import HeldOut
from megatron_seed.checkpoint import layout

_VOCABULARY = 4096
_BUILD = "train-fim0.0-epoch0"


def pretrain(corpus: Path, folder: Path, split: HeldOut, tokens: int, processes: int = 1) -> Path:
    """The last checkpoint of a run below `folder`; stages that are finished are not repeated."""
    selection = ["--selection", folder.name]
    tokenizer, builds, run = folder / "tokenizer", folder / "builds", folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    command("data", "select", corpus, *selection, "--held-out", split.fraction, "--seed", split.seed)
    if not tokenizer.is_dir():
        sizes = ("--vocab-size", _VOCABULARY, "--max-chars", 4_000_000)
        command("data", "tokenizer", corpus, tokenizer, *selection, *sizes)
    command("data", "build", corpus, builds, "--tokenizer", tokenizer, *selection, "--fim-rate", 0, "--workers", 1)
    changes = {
        "name": folder.name,
        "run_dir": run,
        "model.vocab_size": _VOCABULARY,
        "tokenizer": tokenizer,
        "layout.tensor_parallel": processes,
        "phases.0.tokens": tokens,
        "phases.0.fim": 0,
        "phases.0.blend.0.builds": builds / _BUILD,
        "phases.0.global_batch_size": 4,
        "phases.0.micro_batch_size": 4,
        "phases.0.learning_rate.peak": 3e-3,
        "phases.0.learning_rate.warmup_tokens": tokens // 20,
        "phases.0.learning_rate.decay_tokens": tokens // 4,
        "evaluation.held_out": "[]",
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    command("train", "quickstart", *overrides, "--processes", processes)
    return layout.finished(run)[-1]


def command(*words: object) -> None:
    """One of the project's commands, to its end."""
    subprocess.run([str(Path(sys.executable).with_name("megatron-seed")), *map(str, words)], check=True)
