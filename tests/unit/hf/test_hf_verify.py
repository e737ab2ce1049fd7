"""Verification passes what is the same model, and names the first thing that is not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from megatron_seed.hf import architectures, mapping
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.hf.verify import verify_hf


@pytest.fixture
def checkpoint(hf_model: Callable[..., PreTrainedModel], tokenizer_dir: Path, tmp_path: Path) -> Path:
    hf_model().save_pretrained(tmp_path / "source")
    shutil.copytree(tokenizer_dir, tmp_path / "source", dirs_exist_ok=True)
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    import_hf(tmp_path / "source", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_export_is_the_same_model(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    export_hf(checkpoint, tmp_path / "hf", dtype=dtype)
    report = verify_hf(checkpoint, tmp_path / "hf", max_new_tokens=20)
    assert report.ok, report.problems
    assert report.tensors == 30
    assert set(report.logit_difference) == {"random", "plain", "infilling", "chat"}
    assert 60 < report.greedy_tokens <= 80
    assert report.bf16_divergence.keys() == report.logit_difference.keys()
    assert all(0 < divergence < 1e-3 for divergence in report.bf16_divergence.values())


def test_one_changed_bit_is_found(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[3, 4] ^= 1
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    report = verify_hf(checkpoint, tmp_path / "hf")
    assert report.problems == ("model.layers.1.mlp.up_proj.weight differs from the checkpoint in 1 of 3840 elements",)


def test_a_lost_sign_of_zero_is_a_difference(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    tensors["model.norm.weight"][5] = -0.0
    save_file(tensors, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    import_hf(tmp_path / "source", checkpoint)
    export_hf(checkpoint, tmp_path / "hf")
    tensors["model.norm.weight"][5] = 0.0
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    problems = verify_hf(checkpoint, tmp_path / "hf").problems
    assert problems == ("model.norm.weight differs from the checkpoint in 1 of 48 elements",)


def test_a_damaged_checkpoint_proves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """What is exported from it has the same damage, and both would agree."""
    (file,) = checkpoint.glob("*.distcp")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    export_hf(checkpoint, tmp_path / "hf")
    (problem,) = verify_hf(checkpoint, tmp_path / "hf").problems
    assert problem == f"the checkpoint is damaged: {file} does not have the digest it was written with"


def test_lost_files_of_conversations_and_generation_are_found(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert verify_hf(checkpoint, tmp_path / "hf").problems == (
        f"{tmp_path / 'hf'}: the chat template is not the checkpoint's",
    )
    shutil.copy(checkpoint / "tokenizer" / "chat_template.jinja", tmp_path / "hf")
    path = tmp_path / "hf" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 3]}))
    assert verify_hf(checkpoint, tmp_path / "hf").problems == (f"{path} is not the checkpoint's",)


def swap_gate_and_up(tensors: dict[str, torch.Tensor]) -> str:
    names = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    return names[0]


def take_the_other_key_group(tensors: dict[str, torch.Tensor]) -> str:
    """The second of two key-value groups in the place of the first, as when groups are cut at the wrong rows."""
    name = "model.layers.2.self_attn.k_proj.weight"
    tensors[name][:16] = tensors[name][16:]
    return name


@pytest.mark.parametrize("mistake", [swap_gate_and_up, take_the_other_key_group])
def test_mistakes_of_packing_are_found_by_the_first_tensor(checkpoint: Path, tmp_path: Path, mistake: Callable) -> None:
    export_hf(checkpoint, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    name = mistake(tensors)
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    (problem,) = verify_hf(checkpoint, tmp_path / "hf").problems
    assert problem.startswith(f"{name} differs from the checkpoint in ")


def test_a_wrong_packing_on_both_sides_is_found_by_what_the_models_compute(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export and the comparison of tensors share the mapping; logits do not."""
    swapped = mapping.Transform(split=lambda tensor, config: tensor.chunk(2)[::-1], join=mapping.GATE_UP.join)
    rows = tuple(
        replace(row, transform=swapped) if row.transform is mapping.GATE_UP else row for row in mapping.LLAMA_LAYER
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (replace(architectures.LLAMA, layer_rows=rows),))
    export_hf(checkpoint, tmp_path / "hf")
    report = verify_hf(checkpoint, tmp_path / "hf", max_new_tokens=2)
    assert report.tensors == 30
    assert any(problem.startswith("logits of the random prompt differ") for problem in report.problems)


def test_a_bound_on_bf16_holds_or_is_named(checkpoint: Path, tmp_path: Path) -> None:
    export_hf(checkpoint, tmp_path / "hf", dtype="bf16")
    (first, *_) = verify_hf(checkpoint, tmp_path / "hf", bf16_tolerance=1e-9, max_new_tokens=2).problems
    assert first.startswith("in bf16 the random prompt's predictions are ")


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
