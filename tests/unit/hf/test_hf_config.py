"""Configs of released models, as they were published, come back as transformers writes them, key by key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from megatron_seed.checkpoint.reader import read_model_config
from megatron_seed.config.schema import ModelConfig
from megatron_seed.hf.architectures import SpecialIds, read_hf_config, to_hf_config, to_model_config
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.hf.special import read_special_ids

COMMON = {"hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False, "use_cache": True}
LLAMA = {**COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
         "num_attention_heads": 32, "num_hidden_layers": 32, "pretraining_tp": 1}  # fmt: skip
QWEN = {**COMMON, "attention_dropout": 0.0, "bos_token_id": 151643, "use_sliding_window": False}
RELEASED: dict[str, dict[str, Any]] = {
    "Llama 1, before grouped queries": {
        **LLAMA, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "intermediate_size": 11008,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "torch_dtype": "float16", "vocab_size": 32000},
    "DeepSeek-Coder 6.7B, scaling of the old form": {
        **LLAMA, "bos_token_id": 32013, "eos_token_id": 32014, "intermediate_size": 11008, "num_key_value_heads": 32,
        "max_position_embeddings": 16384, "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 4.0, "type": "linear"},
        "rope_theta": 100000, "torch_dtype": "bfloat16", "vocab_size": 32256},
    "Llama 3.1 8B Instruct, several ends": {
        **LLAMA, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "intermediate_size": 14336,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "mlp_bias": False, "attention_bias": False, "torch_dtype": "bfloat16", "vocab_size": 128256},
    "Seed-Coder 8B, no cache": {
        **LLAMA, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "intermediate_size": 14336, "head_dim": 128,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 500000.0,
        "rope_scaling": None, "use_cache": False, "torch_dtype": "bfloat16", "vocab_size": 155136},
    "Qwen2.5 0.5B Instruct, windows that are off": {
        **QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "eos_token_id": 151645,
        "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        "use_mrope": False, "vocab_size": 151936},
    "Qwen3 8B": {
        **QWEN, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "eos_token_id": 151645, "head_dim": 128,
        "attention_bias": False, "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
        "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "torch_dtype": "bfloat16", "vocab_size": 151936},
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_what_was_published_comes_back(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    architecture, theirs = read_hf_config(tmp_path / "config.json")
    model = to_model_config(architecture, theirs, vocab_multiple=128)
    ids = SpecialIds(theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    ours = to_hf_config(model, ids, getattr(torch, RELEASED[name]["torch_dtype"]), theirs)
    for side, config in (("theirs", theirs), ("ours", ours)):
        config.save_pretrained(tmp_path / side)
    ours, theirs = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("ours", "theirs"))
    assert ours == theirs


@pytest.fixture
def imported(hf_model: Callable[..., PreTrainedModel], tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint of a model whose config says more than its shape, and whose end tokens are not its tokenizer's."""
    model = hf_model("qwen2", use_cache=False, attention_dropout=0.1, max_window_layers=2, eos_token_id=[2, 9])
    model.save_pretrained(tmp_path / "theirs")
    shutil.copytree(tokenizer_dir, tmp_path / "theirs", dirs_exist_ok=True)
    import_hf(tmp_path / "theirs", tmp_path / "imported")
    return tmp_path / "imported"


@pytest.fixture
def successor(
    imported: Path, tmp_path: Path, random_tensors: Callable, write_checkpoint: Callable
) -> Callable[..., Path]:
    """A checkpoint such as training with the import's tokenizer writes; keywords change its model."""

    def make(**changes: object) -> Path:
        config: ModelConfig = read_model_config(imported).model_copy(update=changes)
        checkpoint = write_checkpoint(tmp_path / "trained", config, random_tensors(config))
        shutil.copytree(imported / "tokenizer", checkpoint / "tokenizer")
        return checkpoint

    return make


def test_a_model_trained_on_from_an_import_keeps_what_its_config_said(successor: Callable, tmp_path: Path) -> None:
    export_hf(successor(), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "imported_config.json" not in names and "tokenizer.json" in names
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / side / name).read_text()) for side in ("out", "theirs"))
        assert ours == theirs


def test_a_longer_context_is_ours_to_say(successor: Callable, tmp_path: Path) -> None:
    export_hf(successor(rotary_base=1e7, max_sequence_length=2048), tmp_path / "out")
    ours, theirs = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("out", "theirs"))
    assert ours["rope_parameters"]["rope_theta"] == 1e7 and ours["max_position_embeddings"] == 2048
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"rope_parameters", "max_position_embeddings"}


def test_another_model_with_the_same_tokenizer_is_not_taken_for_the_imported(successor: Callable) -> None:
    checkpoint = successor(num_layers=2)
    assert read_special_ids(checkpoint, read_model_config(checkpoint)).eos == 2
