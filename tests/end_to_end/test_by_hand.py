"""The quickstart's stages as commands of their own, typed as docs/quickstart.md names them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from quickstart_runs import MODEL, TRAINING, run_command, write_corpus

from data_prep.shards import finished_manifest


def megatron_seed(*arguments: str | Path) -> str:
    """What the command prints."""
    result = run_command([sys.executable, "-m", "launch", *map(str, arguments)])
    assert result.returncode == 0, f"{arguments}: {result.stdout[-2000:]} {result.stderr[-6000:]}"
    return result.stdout


def test_by_hand(tmp_path: Path) -> None:
    code = write_corpus(tmp_path / "code", ("html", "json", "re", "urllib", "wsgiref"))
    corpus, tokenizer, builds, train = (tmp_path / name for name in ("corpus", "tokenizer", "builds", "train"))

    said = megatron_seed("data", "import", corpus, f"mine={code}", "--kind", "folders")
    assert "dropped 1 (empty), such as urllib/__init__.py" in said
    assert "0 of " in megatron_seed("data", "dedup", corpus)
    said = megatron_seed("data", "select", corpus)
    assert "held out" in said

    shards = sorted((corpus / "documents").glob("*.parquet"))
    assert all(map(finished_manifest, shards))
    said = megatron_seed("tokenizer", "train", *shards, "--out", tokenizer, "--vocab-size", "1024")
    assert json.loads(said)["vocab_size"] == 1024

    for split, rates in (("train", ("0.5",)), ("held_out", ("0", "1"))):
        options = ["--tokenizer", tokenizer, "--split", split]
        options += [option for rate in rates for option in ("--fim-rate", rate)]
        assert "tokens" in megatron_seed("data", "build", corpus, builds, *options)

    settings = [
        f"run_dir={train}",
        f"tokenizer={tokenizer}",
        f"phases.0.blend.0.builds={builds}/train-fim0.5-epoch0",
        f"evaluation.held_out.0.builds={builds}/held_out-fim0.0-epoch0",
        f"evaluation.held_out.1.builds={builds}/held_out-fim1.0-epoch0",
        "logging.tensorboard=false",
        'logging.wandb="off"',
    ]
    megatron_seed("train", "quickstart", *MODEL, *TRAINING, "phases.0.tokens=20480", *settings, "--processes", "2")

    hf = tmp_path / "hf"
    assert f"wrote {hf}" in megatron_seed("hf", "export", train, hf)
    assert "tensors are equal bit for bit" in megatron_seed("hf", "verify", train, hf)
    assert megatron_seed("generate", train, "import os\n", "--max-new-tokens", "8").strip()
    filled = megatron_seed(
        "generate", train, "def f(x):\n    return ", "--suffix", "\n\nf(1)\n", "--max-new-tokens", "8"
    )
    assert filled
