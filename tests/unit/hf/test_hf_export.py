"""What export writes is what transformers would have written, whatever chunks the checkpoint has."""

import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.checkpoint.state import Progress as TrainingProgress
from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import ModelConfig
from megatron_seed.data.manifest import read_manifest as read_build_manifest
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import architecture_of
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.hf.plan import plan_named
from megatron_seed.hf.slices import hf_sources
from megatron_seed.hf.special import read_stop_ids
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


@pytest.mark.parametrize("block_bytes", [1, 700, 10_000])
def test_blocks_put_together_are_the_tensors(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable, block_bytes: int
) -> None:
    config = tiny_config.model_copy(update={"qkv_bias": True})
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config), {QKV: 2, FC1: 4})
    reader = CheckpointReader(checkpoint)
    for source in hf_sources(architecture_of(config).rows(config), config).values():
        blocks = [block.clone() for block in source.blocks(reader, torch.bfloat16, block_bytes)]
        row_bytes = 4 * math.prod(source.shape[1:])
        assert max(2 * block.nbytes for block in blocks) <= max(block_bytes, row_bytes)
        whole = source.read(reader, torch.float32)
        assert whole.shape == source.shape
        assert torch.equal(torch.cat(blocks), whole.bfloat16())


def test_the_number_of_workers_does_not_matter(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    for workers in (1, 5):
        export_hf(checkpoint, tmp_path / f"by{workers}", max_shard_size_bytes=20_000, workers=workers)
    files = [manifest.read_manifest(tmp_path / f"by{workers}") for workers in (1, 5)]
    assert files[0] == files[1] and len(files[0]) > 10
    with pytest.raises(SeedError, match="workers 0 is not positive"):
        export_hf(checkpoint, tmp_path / "out", workers=0)


def test_a_plan_is_what_is_written(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    plan = plan_named(str(checkpoint), "bf16", max_shard_size_bytes=30_000)
    report = export_hf(checkpoint, tmp_path / "out", dtype="bf16", max_shard_size_bytes=30_000)
    assert plan.sizes == {file: (tmp_path / "out" / file).stat().st_size for file in report.files}
    assert plan.parameters == report.parameters
    for file, size in plan.sizes.items():
        assert f"{file}  {size:,} bytes" in plan.describe(workers=2)


def test_a_plan_needs_no_checkpoint_and_memory_does_not_grow_with_the_model() -> None:
    preset, recipe = plan_named("seed_coder_8b"), plan_named("seed_coder_8b/pretrain")
    assert preset.sizes == recipe.sizes and preset.parameters == 8_250_462_208
    assert preset.size_bytes == pytest.approx(2 * preset.parameters, rel=1e-5)
    assert preset.memory_bytes(4) == plan_named("seed_coder_8b_report").memory_bytes(4) < 2e9
    with pytest.raises(SeedError, match=r"seed_coder_7b: neither a checkpoint nor a recipe nor one of .*seed_coder_8b"):
        plan_named("seed_coder_7b")


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


def test_chat_templates_and_generation_settings_survive_both_ways(
    hf_model: Callable[..., PreTrainedModel], tokenizer_dir: Path, tmp_path: Path
) -> None:
    model = hf_model(eos_token_id=[2, 7])
    model.generation_config.update(temperature=0.6, do_sample=True, eos_token_id=[2, 9])
    model.save_pretrained(tmp_path / "theirs")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.chat_template = {"default": "{{ messages[0].content }}?", "tools": "{{ tools | length }}"}
    tokenizer.save_pretrained(tmp_path / "theirs")
    import_hf(tmp_path / "theirs", tmp_path / "checkpoint")
    assert read_stop_ids(tmp_path / "checkpoint", read_model_config(tmp_path / "checkpoint")) == {2, 7, 9}
    export_hf(tmp_path / "checkpoint", tmp_path / "ours")
    names = ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"]
    names.append("additional_chat_templates/tools.jinja")
    for name in names:
        assert (tmp_path / "ours" / name).read_text() == (tmp_path / "theirs" / name).read_text(), name
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi?"


def test_the_card_tells_what_was_trained_on(
    tmp_path: Path,
    tiny_config: ModelConfig,
    random_tensors: Callable,
    write_checkpoint: Callable,
    tiny_recipe: Callable,
    tiny_builds: dict[str, str],
) -> None:
    recipe = yaml.safe_load(tiny_recipe().read_text())
    second = {**recipe["phases"][0], "name": "second", "tokens": 4096, "fim": 0.5}
    second["blend"] = [
        {"name": "here", "builds": tiny_builds["train"], "weight": 3},
        {"name": "elsewhere", "builds": "/nowhere/build", "weight": 1},
    ]
    recipe["phases"].append(second)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    (checkpoint / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (checkpoint / "state.json").write_text(json.dumps({"step": 22, "phase": "second", "phase_tokens": 512}))
    export_hf(checkpoint, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    tokens = read_build_manifest(tiny_builds["train"]).tokens
    for row in (
        "| main | 5,120 | 5,120 | 32 | 8 |",
        "| second | 512 | 4,096 | 32 | 8 |",
        f"| second | here | 75.0% | 0.5 | 300 | {tokens:,} |",
        "| second | elsewhere | 25.0% | 0.5 |  |  |",
    ):
        assert row in card, row


def test_the_phase_that_a_run_reached_decides_the_rotary_base(tmp_path: Path, tiny_recipe: Callable) -> None:
    from megatron_seed.checkpoint.write import write_beside

    recipe = yaml.safe_load(tiny_recipe().read_text())
    recipe["phases"].append({**recipe["phases"][0], "name": "long", "rotary_base": 1e6})
    resolved = parse_recipe(recipe, "recipe")
    for phase, base in (("main", 500_000.0), ("long", 1e6)):
        (tmp_path / phase).mkdir()
        write_beside(tmp_path / phase, resolved, TrainingProgress(phase=phase), {})
        assert read_model_config(tmp_path / phase).rotary_base == base


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


def test_an_export_goes_where_a_link_leads(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    disk, out = tmp_path / "disk" / "hf", tmp_path / "out"
    out.symlink_to(disk)  # there is nothing yet
    for _ in range(2):
        export_hf(checkpoint, out)
        assert out.is_symlink() and manifest.find_damage(disk) is None
    assert [path.name for path in disk.parent.iterdir()] == ["hf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "disk", "out"]


def test_checkpoint_and_export_may_be_where_one_stands(
    tmp_path: Path,
    tiny_config: ModelConfig,
    random_tensors: Callable,
    write_checkpoint: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    monkeypatch.chdir(checkpoint)
    export_hf(Path("."), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["checkpoint"] == "checkpoint"
    assert "\n# checkpoint\n" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_hf(checkpoint, Path("."))
    monkeypatch.chdir(tmp_path)
    assert manifest.find_damage(tmp_path / "here") is None


def test_files_of_a_tokenizer_keep_their_folders_and_take_no_name_of_a_models(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    (checkpoint / "tokenizer" / "of" / "others").mkdir(parents=True)
    (checkpoint / "tokenizer" / "of" / "others" / "vocab.json").write_text("{}")
    export_hf(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "of" / "others" / "vocab.json").read_text() == "{}"
    for name in ("model.safetensors.index.json", "export.json"):
        (checkpoint / "tokenizer" / name).write_text('{"weight_map": {}}')
        with pytest.raises(SeedError, match=f"{name}: a tokenizer file cannot have the name of a model file"):
            export_hf(checkpoint, tmp_path / "other")
        (checkpoint / "tokenizer" / name).unlink()


def test_nothing_takes_the_place_of_what_it_is_made_from(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint", tiny_config, random_tensors(tiny_config))
    for out in (checkpoint, checkpoint.parent, tmp_path / "run" / ".." / "run"):
        with pytest.raises(SeedError, match=r"would take the place of what it is made from, .*checkpoint: choose"):
            export_hf(checkpoint, out, force=True)
    export_hf(checkpoint, tmp_path / "hf")
    with pytest.raises(SeedError, match="would take the place of what it is made from"):
        import_hf(tmp_path / "hf", tmp_path / "hf", force=True)
    assert manifest.find_damage(tmp_path / "hf") is None and (checkpoint / ".metadata").is_file()


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


@pytest.fixture
def limited_file_size() -> Iterator[Callable[[int], None]]:
    """Makes writing beyond a size fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    tiny_config: ModelConfig,
    random_tensors: Callable,
    write_checkpoint: Callable,
    limited_file_size: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    export_hf(checkpoint, tmp_path / "hf")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
        for convert, source in ((export_hf, checkpoint), (import_hf, tmp_path / "hf")):
            with pytest.raises(SeedError, match=r"out: .* kB are needed, 100\.0 kB are free on that disk"):
                convert(source, tmp_path / "out")
    limited_file_size(50_000)
    for convert, source in ((export_hf, checkpoint), (import_hf, tmp_path / "hf")):
        with pytest.raises(SeedError, match=r"out: no room left to write it \(File too large\); nothing of it is kept"):
            convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "hf"]


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_damaged_checkpoint_leaves_what_was_there(
    tmp_path: Path, tiny_config: ModelConfig, random_tensors: Callable, write_checkpoint: Callable, damage: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config, random_tensors(tiny_config))
    export_hf(checkpoint, tmp_path / "out")
    (file,) = checkpoint.glob("*.distcp")
    data = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(data[: len(data) // 2])
    words = {"missing": "cannot read .*: No such file or directory", "cut short": "truncated: .* needs bytes"}[damage]
    with pytest.raises(SeedError, match=rf"__0_0\.distcp: {words}"):
        export_hf(checkpoint, tmp_path / "out", max_shard_size_bytes=20_000)
    assert manifest.find_damage(tmp_path / "out") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]
