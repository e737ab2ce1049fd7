"""What export writes is what transformers would have written, whatever chunks the checkpoint has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from megatron_seed.checkpoint import manifest
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from tokenizer.special import IDS

HEAD, FC1, QKV = (
    "output_layer.weight",
    "decoder.layers.mlp.linear_fc1.weight",
    "decoder.layers.self_attention.linear_qkv.weight",
)


@pytest.mark.parametrize(
    ("kind", "changes", "dtype"),
    [
        ("llama", {}, torch.float32),
        ("llama", {}, torch.bfloat16),
        ("llama", {"num_key_value_heads": 4}, torch.bfloat16),
        ("llama", {"num_key_value_heads": 1, "head_dim": 8}, torch.float16),
        ("llama", {"rope": "linear"}, torch.float32),
        ("llama", {"rope": "llama3", "tie_word_embeddings": True}, torch.bfloat16),
        ("qwen2", {"rms_norm_eps": 1e-5}, torch.bfloat16),
        ("qwen2", {"tie_word_embeddings": True, "head_dim": 8}, torch.float32),
        ("qwen3", {}, torch.bfloat16),
        ("qwen3", {"tie_word_embeddings": True, "rope": "yarn"}, torch.float32),
    ],
)
def test_export_of_an_import_is_what_transformers_wrote(
    hf_model: Callable[..., PreTrainedModel], tmp_path: Path, kind: str, changes: dict, dtype: torch.dtype
) -> None:
    hf_model(kind, **changes).to(dtype).save_pretrained(tmp_path / "theirs")
    import_hf(tmp_path / "theirs", tmp_path / "checkpoint")
    export_hf(tmp_path / "checkpoint", tmp_path / "ours")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "ours" / name).read_text()) == json.loads(
            (tmp_path / "theirs" / name).read_text()
        )
    ours, theirs = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == dtype for name in theirs)


def test_layout_of_the_checkpoint_does_not_matter(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(tiny_config, torch.bfloat16)
    whole = write_checkpoint(tmp_path / "whole", tiny_config, tensors)
    splits = {key: 2 if tensors[key].dim() > 1 else 1 for key in tensors} | {FC1: 4}  # gate and up are split apart
    split = write_checkpoint(tmp_path / "tp2", tiny_config, tensors, splits)
    for source in (whole, split):
        export_hf(source, tmp_path / f"{source.name}-hf")
    files = [(tmp_path / f"{name}-hf" / "model.safetensors").read_bytes() for name in ("whole", "tp2")]
    assert files[0] == files[1]


def test_padded_rows_are_trimmed(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(tiny_config)
    assert tensors[HEAD].shape[0] == 512
    export_hf(write_checkpoint(tmp_path / "checkpoint", tiny_config, tensors), tmp_path / "out")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(exported["lm_head.weight"], tensors[HEAD][: tiny_config.vocab_size])
    assert exported["model.embed_tokens.weight"].shape[0] == tiny_config.vocab_size


@pytest.mark.parametrize("limit", [1, 20_000, 60_000])
def test_shards_stay_below_the_limit_and_load(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable, limit: int
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    export_hf(checkpoint, tmp_path / "single")
    report = export_hf(checkpoint, tmp_path / "sharded", max_shard_size_bytes=limit)
    whole = load_file(tmp_path / "single" / "model.safetensors")
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {
        "total_parameters": sum(tensor.numel() for tensor in whole.values()),
        "total_size": sum(tensor.nbytes for tensor in whole.values()),
    }
    assert sorted(set(index["weight_map"].values())) == sorted(report.files)
    for file in report.files:
        shard = load_file(tmp_path / "sharded" / file)
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= limit
        assert all(torch.equal(tensor, whole[name]) for name, tensor in shard.items())
        assert {name for name, place in index["weight_map"].items() if place == file} == set(shard)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "sharded", dtype=torch.float32)
    assert all(torch.equal(parameter, whole[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_dtype_is_converted_and_stated(
    tmp_path: Path,
    tiny_config: ModelConfig,
    random_tensors: Callable,
    write_checkpoint: Callable,
    name: str,
    dtype: torch.dtype,
) -> None:
    tensors = random_tensors(tiny_config)
    export_hf(write_checkpoint(tmp_path / "checkpoint", tiny_config, tensors), tmp_path / "out", dtype=name)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    norm = "decoder.final_layernorm.weight"
    assert torch.equal(exported["model.norm.weight"], tensors[norm].to(dtype))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_values_that_do_not_fit_are_refused(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(tiny_config)
    tensors["decoder.layers.mlp.linear_fc2.weight"][2, 0, 0] = 70_000.0
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, tensors)
    with pytest.raises(SeedError, match=r"layers\.2\.mlp\.down_proj\.weight: values up to 7e\+04 do not fit"):
        export_hf(checkpoint, tmp_path / "out", dtype="fp16")
    assert not list(tmp_path.glob("*out*")), "a failed export leaves nothing"
    assert export_hf(checkpoint, tmp_path / "out", dtype="bf16").dtype == "bfloat16"


def test_the_tokenizer_goes_along(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable, tokenizer_dir: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    export_hf(checkpoint, tmp_path / "without")
    config = json.loads((tmp_path / "without" / "config.json").read_text())
    assert all(config.get(f"{role}_token_id") is None for role in ("bos", "eos", "pad"))

    shutil.copytree(tokenizer_dir, checkpoint / "tokenizer")
    (checkpoint / "state.json").write_text(json.dumps({"step": 7, "consumed_tokens": 12345}))
    (checkpoint / "recipe.yaml").write_text("name: my-recipe\n")
    export_hf(checkpoint, tmp_path / "with")
    config = json.loads((tmp_path / "with" / "config.json").read_text())
    assert all(config[f"{role}_token_id"] == IDS[role] for role in ("bos", "eos", "pad"))
    text = "def f(x):\n\treturn 'é' + x"
    loaded = AutoTokenizer.from_pretrained(tmp_path / "with")
    assert loaded.decode(loaded(text)["input_ids"]) == text
    card = (tmp_path / "with" / "README.md").read_text()
    assert "12,345" in card and "name: my-recipe" in card
    assert manifest.find_damage(tmp_path / "with") is None


def test_a_tokenizer_larger_than_the_model_is_refused(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable, tokenizer_dir: Path
) -> None:
    small = tiny_config.model_copy(update={"vocab_size": 300})
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small, random_tensors(small))
    shutil.copytree(tokenizer_dir, checkpoint / "tokenizer")
    with pytest.raises(SeedError, match="383 token ids, but the model has a vocabulary of 300"):
        export_hf(checkpoint, tmp_path / "out")


def test_only_an_earlier_export_is_replaced(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(tiny_config)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, tensors)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("the only copy")
    with pytest.raises(SeedError, match="exists and was not written by this command"):
        export_hf(checkpoint, out)
    assert (out / "thesis.txt").read_text() == "the only copy"
    export_hf(checkpoint, out, force=True, max_shard_size_bytes=20_000)
    assert (out / "model.safetensors.index.json").exists() and not (out / "thesis.txt").exists()
    export_hf(checkpoint, out)
    assert (out / "model.safetensors").exists() and not (out / "model.safetensors.index.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_leftovers_of_a_killed_export_do_not_get_in(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    (tmp_path / ".out.tmp" / "half").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    export_hf(checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*00001*")) and not (tmp_path / "out" / "half").exists()


def test_a_checkpoint_that_is_not_its_config_is_refused(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(tiny_config)
    del tensors[HEAD]
    tensors[QKV] = tensors[QKV][:, :-1]
    tensors["decoder.layers.self_attention.linear_qkv.bias"] = torch.zeros(4, 64)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, tensors)
    with pytest.raises(SeedError) as refusal:
        export_hf(checkpoint, tmp_path / "out")
    for words in (
        "output_layer.weight is missing",
        "linear_qkv.weight is [4, 63, 32], not [4, 64, 32]",
        "linear_qkv.bias is not part of this architecture",
    ):
        assert words in str(refusal.value)


def test_a_shape_that_transformers_cannot_have_is_refused(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    odd = tiny_config.model_copy(update={"hidden_size": 30})
    checkpoint = write_checkpoint(tmp_path / "checkpoint", odd, random_tensors(odd))
    with pytest.raises(SeedError, match="no LlamaForCausalLM has this shape"):
        export_hf(checkpoint, tmp_path / "out")
