"""Hugging Face directories become checkpoints that megatron-core loads; what is not a Llama of ours is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedModel

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.schema import LayoutConfig, LinearRope
from megatron_seed.errors import SeedError
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from megatron_seed.runtime.groups import Groups, process_groups


@pytest.fixture
def hf(hf_model: Callable[..., PreTrainedModel], tmp_path: Path) -> Path:
    hf_model().save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with process_groups(LayoutConfig(), seed=0) as groups:
        yield groups


def edit_config(hf: Path, **changes: object) -> None:
    path = hf / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_tensors(hf: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(hf / "model.safetensors")
    change(tensors)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope": "linear"}),
        ("llama", {"rope": "llama3"}),
        ("qwen2", {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("qwen3", {"rope": "yarn"}),
    ],
)
def test_megatron_core_loads_it_and_computes_the_same(
    hf_model: Callable[..., PreTrainedModel], tmp_path: Path, groups: Groups, kind: str, changes: dict
) -> None:
    from megatron_seed.checkpoint.load import load_checkpoint
    from megatron_seed.model.build import build_model

    theirs = hf_model(kind, **changes)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size=50_000)
    report = import_hf(tmp_path / "hf", tmp_path / "checkpoint")
    ours = build_model(report.model, LayoutConfig(), "fp32", seed=5)
    load_checkpoint(tmp_path / "checkpoint", ours)
    # Long enough for scaled positions to matter.
    ids = torch.randint(0, report.model.vocab_size, (2, 300), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = ours[0](ids, torch.arange(300).expand_as(ids), None, runtime_gather_output=True)
        expected = theirs(ids).logits
    assert logits.shape[-1] == 512
    difference = (logits[..., : report.model.vocab_size] - expected).abs().max() / expected.abs().max()
    assert difference.item() < 1e-5
    assert not logits[..., report.model.vocab_size :].any(), "padded rows are zeros"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_megatron_cores_own_reader_loads_it(
    hf_model: Callable[..., PreTrainedModel], tmp_path: Path, groups: Groups, kind: str
) -> None:
    from megatron.core import dist_checkpointing

    from megatron_seed.generate import load_weights
    from megatron_seed.model.build import build_model

    hf_model(kind).save_pretrained(tmp_path / "hf")
    model = import_hf(tmp_path / "hf", tmp_path / "checkpoint").model
    (one,), (other,) = (build_model(model, LayoutConfig(), "fp32", seed=seed) for seed in (1, 2))
    load_weights(one, CheckpointReader(tmp_path / "checkpoint"))
    loaded = dist_checkpointing.load({"model": other.sharded_state_dict()}, str(tmp_path / "checkpoint"))
    other.load_state_dict(loaded["model"])
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for (_, ours), theirs in pairs)


def test_a_checkpoint_of_megatron_core_exports_to_what_it_computes(tmp_path: Path, groups: Groups, tiny_config) -> None:
    from megatron.core import dist_checkpointing

    from megatron_seed.config.load import dump_recipe
    from megatron_seed.model.build import build_model

    config = tiny_config.model_copy(update={"init_std": 0.1})
    model = build_model(config, LayoutConfig(), "fp32", seed=5)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    dist_checkpointing.save({"model": model[0].sharded_state_dict()}, str(checkpoint))
    (checkpoint / "model.yaml").write_text(dump_recipe(config))
    export_hf(checkpoint, tmp_path / "hf")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = torch.randint(0, config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model[0](ids, torch.arange(40).expand_as(ids), None)[..., : config.vocab_size]
        torch.testing.assert_close(logits, theirs(ids).logits, rtol=0, atol=1e-4)


def test_the_checkpoint_is_whole(hf: Path, tmp_path: Path) -> None:
    edit_config(hf, eos_token_id=[2, 5])
    report = import_hf(hf, tmp_path / "out", dtype="bf16")
    assert read_model_config(tmp_path / "out") == report.model
    assert {info.dtype for info in CheckpointReader(tmp_path / "out").tensors.values()} == {torch.bfloat16}
    assert manifest.find_damage(tmp_path / "out") is None
    export_hf(tmp_path / "out", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["eos_token_id"] == [2, 5]
    import_hf(hf, tmp_path / "out")  # an earlier import is replaced
    (tmp_path / "out" / "state.json").unlink()
    with pytest.raises(SeedError, match="exists and was not written by this command"):
        import_hf(hf, tmp_path / "out")


def pickled(hf: Path, shards: int = 1) -> None:
    """Turn the directory's safetensors into the pickles of old."""
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, hf / "pytorch_model.bin")
        return
    files = {name: f"pytorch_model-{number % shards}.bin" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in files if files[name] == file}, hf / file)
    (hf / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_are_read_only_when_asked_for(hf: Path, tmp_path: Path, shards: int) -> None:
    import_hf(hf, tmp_path / "from_safetensors")
    pickled(hf, shards)
    with pytest.raises(SeedError, match=r"weights are pickles \(pytorch_model.*\.bin\).* --allow-pickle"):
        import_hf(hf, tmp_path / "out")
    import_hf(hf, tmp_path / "out", allow_pickle=True)
    digests = [manifest.read_manifest(tmp_path / name)["__0_0.distcp"] for name in ("from_safetensors", "out")]
    assert digests[0] == digests[1]


def test_pickles_of_before_zip_archives_are_read_too(hf: Path, tmp_path: Path) -> None:
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    torch.save(tensors, hf / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    import_hf(hf, tmp_path / "out", allow_pickle=True)
    assert torch.equal(
        CheckpointReader(tmp_path / "out").read("decoder.final_layernorm.weight"), tensors["model.norm.weight"]
    )


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("thing", ["code", "no tensors", "cut short"])
def test_pickles_of_anything_but_tensors_are_refused(hf: Path, tmp_path: Path, thing: str) -> None:
    pickled(hf)
    file, marker = hf / "pytorch_model.bin", tmp_path / "ran"
    if thing == "cut short":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        torch.save({"lm_head.weight": Code(marker) if thing == "code" else 3}, file)
    with pytest.raises(
        SeedError, match=r"pytorch_model\.bin: (refused|cannot read it as tensors alone|holds something else)"
    ):
        import_hf(hf, tmp_path / "out", allow_pickle=True)
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_shards_that_are_missing_or_cut_short_are_named(
    hf_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    hf_model().save_pretrained(tmp_path / "hf", max_shard_size=50_000)
    shard = sorted((tmp_path / "hf").glob("model-*.safetensors"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-10])
    with pytest.raises(SeedError, match=rf"{shard.name}: cannot read it as safetensors"):
        import_hf(tmp_path / "hf", tmp_path / "out")
    shard.unlink()
    with pytest.raises(SeedError, match=f"hf: {shard.name} missing, though the index names it"):
        import_hf(tmp_path / "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(
    hf_model: Callable[..., PreTrainedModel], tokenizer_dir: Path, tmp_path: Path
) -> None:
    hf_model(vocab_size=300).save_pretrained(tmp_path / "hf")
    shutil.copytree(tokenizer_dir, tmp_path / "hf", dirs_exist_ok=True)
    with pytest.raises(SeedError, match="383 token ids, but the model has a vocabulary of 300"):
        import_hf(tmp_path / "hf", tmp_path / "out")


def test_the_older_form_of_scaled_positions_is_understood(hf: Path, tmp_path: Path) -> None:
    scaling = {"type": "linear", "factor": 4.0}
    edit_config(hf, rope_parameters=None, rope_theta=20_000.0, rope_scaling=scaling)
    model = import_hf(hf, tmp_path / "out").model
    assert (model.rotary_base, model.rope_scaling) == (20_000.0, LinearRope(kind="linear", factor=4.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported; supported: Llama"),
        ({"architectures": None}, "architecture none is not supported"),
        ({"num_hidden_layers": None}, "num_hidden_layers missing"),
        ({"architectures": 5}, "architecture 5 is not supported"),
        ({"architectures": [{}]}, r"architecture \{\} is not supported"),
        ({"num_attention_heads": 0}, "num_attention_heads 0: must be a whole number above zero"),
        ({"vocab_size": "400"}, "vocab_size '400': must be a whole number above zero"),
        ({"vocab_size": 10**13}, r"embed_tokens\.weight is \[400, 48\], not \[10000000000000, 48\]"),
        ({"attention_bias": True}, "not supported: attention_bias True"),
        ({"hidden_act": "gelu"}, "not supported: hidden_act gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type dynamic"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "mscale": 1.5}},
            "not supported: mscale of rope_type linear",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5, "rope_theta": 1e4}}, "rope_scaling.linear.factor"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"num_key_value_heads": 3}, "4 is not a multiple of"),
        ({"hidden_size": 50}, "hidden size"),
        ({"num_hidden_layers": 2}, r"layers\.2\..* is not part of this architecture; .* and 4 more"),
        ({"num_hidden_layers": 4}, r"layers\.3\.input_layernorm\.weight is missing"),
        ({"vocab_size": 401}, r"embed_tokens\.weight is \[400, 48\], not \[401, 48\]"),
        ({"tie_word_embeddings": True}, r"lm_head\.weight differs from the embedding"),
    ],
)
def test_configs_that_are_not_ours_are_refused(hf: Path, tmp_path: Path, changes: dict, words: str) -> None:
    edit_config(hf, **changes)
    with pytest.raises(SeedError, match=words):
        import_hf(hf, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_do_not_belong_are_refused(hf: Path, tmp_path: Path) -> None:
    edit_tensors(hf, lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(SeedError, match=r"layers\.1\.self_attn\.k_proj\.weight is missing"):
        import_hf(hf, tmp_path / "out")
    edit_tensors(hf, lambda tensors: tensors.update({"model.layers.1.self_attn.k_proj.weight": torch.ones(32, 47)}))
    with pytest.raises(SeedError, match=r"k_proj\.weight is \[32, 47\], not \[32, 48\]"):
        import_hf(hf, tmp_path / "out")


def test_tensors_that_say_nothing_are_reported(hf: Path, tmp_path: Path, hf_model: Callable) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(hf, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert import_hf(hf, tmp_path / "out").ignored == (name,)
    tied = hf_model(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    embedding = tied.get_input_embeddings().weight.detach().clone()
    edit_tensors(tmp_path / "tied", lambda tensors: tensors.update({"lm_head.weight": embedding}))
    assert import_hf(tmp_path / "tied", tmp_path / "tied-out").ignored == ("lm_head.weight",)


def test_mixed_dtypes_need_a_choice(hf: Path, tmp_path: Path) -> None:
    edit_tensors(hf, lambda tensors: tensors.update({"model.norm.weight": torch.ones(48, dtype=torch.bfloat16)}))
    with pytest.raises(SeedError, match=r"torch\.bfloat16, torch\.float32: name the dtype"):
        import_hf(hf, tmp_path / "out")
    assert import_hf(hf, tmp_path / "out", dtype="fp32").dtype == "float32"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantized_tensors_are_refused_whatever_is_asked_for(hf: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    edit_tensors(hf, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(
        SeedError, match=r"layers\.2\.mlp\.up_proj\.weight is .*8.*, not plain numbers: give the unquant"
    ):
        import_hf(hf, tmp_path / "out", dtype="bf16")


def test_double_precision_is_rounded_when_asked_for(hf: Path, tmp_path: Path) -> None:
    edit_tensors(hf, lambda tensors: tensors.update({name: tensor.double() for name, tensor in tensors.items()}))
    with pytest.raises(SeedError, match=r"tensors are torch\.float64: name the dtype"):
        import_hf(hf, tmp_path / "out")
    assert import_hf(hf, tmp_path / "out", dtype="fp32").dtype == "float32"


def test_two_models_in_one_directory_are_refused(hf: Path, tmp_path: Path) -> None:
    """transformers takes the single file, others the index."""
    shutil.copy(hf / "model.safetensors", hf / "model-1.safetensors")
    index = hf / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-1.safetensors"}}))
    with pytest.raises(SeedError, match=r"both model\.safetensors and model\.safetensors\.index\.json are there"):
        import_hf(hf, tmp_path / "out")
    index.write_text('{"weight_map": {}}')
    with pytest.raises(SeedError, match=r"index\.json: its weight_map is empty"):
        import_hf(hf, tmp_path / "out")


def test_generation_settings_that_nothing_reads_are_refused(hf: Path, tmp_path: Path) -> None:
    (hf / "generation_config.json").write_text("{")
    with pytest.raises(SeedError, match=r"generation_config\.json: "):
        import_hf(hf, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named(hf: Path, tmp_path: Path) -> None:
    data = (hf / "model.safetensors").read_bytes()
    (hf / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(SeedError, match=r"model\.safetensors: cannot read it"):
        import_hf(hf, tmp_path / "out")
    (hf / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "../model.safetensors"}}')
    with pytest.raises(SeedError, match="names files outside"):
        import_hf(hf, tmp_path / "out")
    for name in ("1", '""', "null"):
        (hf / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"lm_head.weight": {name}}}}}')
        with pytest.raises(SeedError, match=r"index\.json: names files outside"):
            import_hf(hf, tmp_path / "out")
    (hf / "config.json").write_text("{")
    with pytest.raises(SeedError, match=r"config\.json: not JSON"):
        import_hf(hf, tmp_path / "out")
    with pytest.raises(SeedError, match="not a Hugging Face model directory"):
        import_hf(tmp_path / "nowhere", tmp_path / "out")
