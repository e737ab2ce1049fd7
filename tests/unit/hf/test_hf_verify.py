"""Verification passes what is the same model, and names the first thing that is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.hf.verify import verify_hf


@pytest.fixture
def checkpoint(hf_model: Callable[..., PreTrainedModel], tokenizer_dir: Path, tmp_path: Path) -> Path:
    hf_model().save_pretrained(tmp_path / "source")
    for path in tokenizer_dir.iterdir():
        shutil.copyfile(path, tmp_path / "source" / path.name)
    import_hf(tmp_path / "source", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_export_is_the_same_model(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    export_hf(checkpoint, tmp_path / "hf", dtype=dtype)
    report = verify_hf(checkpoint, tmp_path / "hf", max_new_tokens=20)
    assert report.ok, report.problems
    assert report.tensors == 30
    assert set(report.logit_difference) == {"random", "plain", "infilling"}
    assert 40 < report.greedy_tokens <= 60


def test_one_changed_bit_is_found(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[3, 4] ^= 1
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    report = verify_hf(checkpoint, tmp_path / "hf")
    assert report.problems == ("model.layers.1.mlp.up_proj.weight differs from the checkpoint in 1 of 3840 elements",)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rms_norm_eps": 1e-5}, "config.json: norm_epsilon 1e-05, the checkpoint has 1e-06"),
        ({"eos_token_id": 3}, "config.json: eos_token_id 3, the checkpoint has 2"),
    ],
)
def test_another_config_is_found(checkpoint: Path, tmp_path: Path, changes: dict, problem: str) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert verify_hf(checkpoint, tmp_path / "hf").problems == (problem,)


def test_another_tokenizer_is_found(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    path = tmp_path / "hf" / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocabulary = spec["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(spec))
    assert verify_hf(checkpoint, tmp_path / "hf").problems == (f"{path} is not the checkpoint's tokenizer",)
    path.unlink()
    (problem,) = verify_hf(checkpoint, tmp_path / "hf").problems
    assert "no tokenizer.json" in problem


def test_a_missing_tensor_is_found(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    assert verify_hf(checkpoint, tmp_path / "hf").problems == ("model.norm.weight is missing, not [48]",)


def test_models_that_compute_otherwise_are_found(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama

    export_hf(checkpoint, tmp_path / "hf")
    swapped = lambda x: torch.cat((x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)  # noqa: E731
    monkeypatch.setattr(modeling_llama, "rotate_half", swapped)
    report = verify_hf(checkpoint, tmp_path / "hf", max_new_tokens=5)
    assert report.tensors == 30
    assert any(problem.startswith("logits of the random prompt differ") for problem in report.problems)
