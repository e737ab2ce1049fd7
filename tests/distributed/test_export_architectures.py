"""Every architecture comes back bit by bit from every layout, and trains as transformers trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers_peer import train_in_transformers

from megatron_seed.checkpoint.layout import resolve
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.train import metrics

SAVE = Path(__file__).parent / "save_at_layouts.py"
# A vocabulary that two does not divide.
SHAPE = {
    "vocab_size": 121,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
MODELS: Mapping[str, tuple[type[PreTrainedModel], dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, {}),
    "llama, tied, multi-head": (LlamaForCausalLM, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen2": (Qwen2ForCausalLM, {}),
    "qwen3, tied": (Qwen3ForCausalLM, {"tie_word_embeddings": True, "head_dim": 16}),
}


def make(name: str) -> PreTrainedModel:
    """A random model; norms and biases are random too, so that none of them is like another."""
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return model


def test_tensors_come_back_bit_by_bit_from_every_layout(start: Callable, tmp_path: Path) -> None:
    for name in MODELS:
        make(name).save_pretrained(tmp_path / "hf" / name)
        import_hf(tmp_path / "hf" / name, tmp_path / "imported" / name)
    start(SAVE, tmp_path, processes=4)
    for layout in ("TP1", "TP2xPP2", "PP2xVPP2"):
        for name in MODELS:
            export_hf(tmp_path / layout / name, tmp_path / "exported" / layout / name)
            ours = load_file(tmp_path / "exported" / layout / name / "model.safetensors")
            theirs = load_file(tmp_path / "hf" / name / "model.safetensors")
            assert ours.keys() == theirs.keys(), (layout, name)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), (layout, name)


@pytest.mark.parametrize("name", ["qwen2", "qwen3, tied"])
def test_an_import_trains_at_tp2_pp2_as_in_transformers(
    name: str, tiny_recipe: Callable[..., Path], start: Callable, tmp_path: Path
) -> None:
    """Losses and final parameters: biases and norms of heads are split or summed over ranks, and do not decay."""
    model = make(name)
    model.save_pretrained(tmp_path / "hf")
    report = import_hf(tmp_path / "hf", tmp_path / "imported")
    recipe = tiny_recipe(
        "trained",
        model=report.model.model_dump(),
        layout={"tensor_parallel": 2, "pipeline_parallel": 2, "sequence_parallel": name == "qwen2"},
        start_from={"checkpoint": str(tmp_path / "imported"), "load": "weights", "cursors": "fresh"},
    )
    start("-m", "megatron_seed.train", recipe, "phases.0.tokens=2560", "phases.0.learning_rate=1e-2", processes=4)
    run_dir = recipe.with_suffix("")
    losses = [row["loss"] for row in metrics.read(run_dir) if row["kind"] == "train"]
    assert len(losses) == 10
    assert losses == pytest.approx(train_in_transformers(model, run_dir / "config.yaml", 10, 1e-2), abs=1e-5)
    export_hf(resolve(run_dir), tmp_path / "out")
    trained = load_file(tmp_path / "out" / "model.safetensors")
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(trained[key], parameter.detach(), rtol=0, atol=1e-4, msg=key)
