"""`hf export`, `hf import` and `hf verify` as a person types them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel
from typer.testing import CliRunner

from launch.cli import app
from megatron_seed.errors import SeedError


def say(*arguments: str | Path) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_goes_in_and_comes_out_again(hf_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    hf_model("qwen3").save_pretrained(tmp_path / "hf")
    said = say("hf", "import", tmp_path / "hf", tmp_path / "checkpoint", "--dtype", "bf16", "--vocab-multiple", "64")
    assert "Qwen3ForCausalLM" in said and "bfloat16" in said
    said = say("hf", "export", tmp_path / "checkpoint", tmp_path / "out", "--dtype", "fp32", "--shard-gb", "1e-4")
    assert "Qwen3ForCausalLM" in said and "float32" in said
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    say("hf", "export", tmp_path / "checkpoint", tmp_path / "out")
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("hf", "out"))
    assert all(torch.equal(ours[name], tensor.bfloat16()) for name, tensor in theirs.items())
    said = say("hf", "verify", tmp_path / "checkpoint", tmp_path / "out", "--out", tmp_path / "report.json")
    assert "36 tensors are equal bit for bit (as bfloat16)" in said
    assert "logits of the random prompt differ by" in said and "in bf16 the random prompt's" in said
    assert (tmp_path / "report.json").is_file()


def test_a_dry_run_tells_files_bytes_and_memory_of_the_8b_model(tmp_path: Path) -> None:
    said = say("hf", "export", "seed_coder_8b", "--dry-run", "--workers", "2")
    assert said == say("hf", "export", "seed_coder_8b/pretrain", "--dry-run", "--workers", "2")
    *files, total, memory = said.splitlines()
    sizes = [int(line.split()[1].replace(",", "")) for line in files]
    assert len(sizes) == 5 and max(sizes) <= 4e9 + 100_000
    assert total == f"LlamaForCausalLM, 8,250,462,208 parameters as bfloat16: 5 files, {sum(sizes):,} bytes"
    assert memory == "memory: below 1.0 GB with 2 workers"


def test_an_export_needs_a_folder_to_make(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="name the folder to make, or give --dry-run"):
        say("hf", "export", tmp_path)
