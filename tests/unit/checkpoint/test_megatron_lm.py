"""Checkpoints of Megatron-LM: which are taken, which are refused and why, and tensors as older versions store them.

That training goes on from one is shown in tests/distributed/test_from_megatron_lm.py.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_seed.checkpoint.megatron_lm import MegatronLmCheckpoint, find, remarks
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.torch_dist import Part, write_torch_dist

MODEL = ModelConfig(num_layers=2, hidden_size=8, ffn_hidden_size=12, num_attention_heads=2, num_query_groups=1,
                    head_dim=4, vocab_size=100, norm_epsilon=1e-6, rotary_base=1e4)  # fmt: skip
ARGS = {
    "num_layers": 2,
    "hidden_size": 8,
    "ffn_hidden_size": 12,
    "num_attention_heads": 2,
    "num_query_groups": 1,
    "group_query_attention": True,
    "kv_channels": 4,
    "norm_epsilon": 1e-6,
    "untie_embeddings_and_output_weights": True,
    "normalization": "RMSNorm",
    "swiglu": True,
    "position_embedding_type": "rope",
    "add_bias_linear": False,
    "rotary_base": 10_000,
    "padded_vocab_size": 256,
    "consumed_train_samples": 40,
    "seq_length": 16,
}
EMBEDDING = "embedding.word_embeddings.weight"


def write(folder: Path, tensors: dict[str, torch.Tensor], optimizer: dict | None = None, **changes: object) -> Path:
    folder.mkdir(parents=True)
    parts = [
        Part(key, tuple(tensor.shape), (0,) * tensor.dim(), tuple(tensor.shape)) for key, tensor in tensors.items()
    ]
    write_torch_dist(folder, parts, torch.float32, lambda part: tensors[part.key], {})
    common = {"args": Namespace(**{**ARGS, **changes}), "iteration": 10, "optimizer": optimizer or {}}
    torch.save(common, folder / "common.pt")
    return folder


def test_which_folders_are_megatron_lms(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "theirs" / "iter_0000010", {EMBEDDING: torch.zeros(256, 8)})
    assert find(checkpoint) == checkpoint
    assert find(tmp_path / "theirs") is None
    (tmp_path / "theirs" / "latest_checkpointed_iteration.txt").write_text("10\n")
    assert find(tmp_path / "theirs") == checkpoint
    (checkpoint / "state.json").write_text("{}")  # one of ours
    assert find(checkpoint) is None
    assert find(tmp_path / "nowhere") is None


def test_where_the_run_stood(tmp_path: Path) -> None:
    checkpoint = MegatronLmCheckpoint(write(tmp_path / "theirs", {EMBEDDING: torch.zeros(256, 8)}), MODEL)
    assert (checkpoint.progress.step, checkpoint.progress.consumed_tokens) == (10, 640)
    assert checkpoint.progress.cursors == {}
    said = "; ".join(remarks(checkpoint, MODEL.model_copy(update={"rotary_base": 5e5})))
    assert "no digests" in said
    assert "rotary_base 10000, from here on it is 500000.0" in said
    assert "156 padded rows" in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_layers": 3}, "num_layers 3 instead of 2"),
        ({"group_query_attention": False}, "num_query_groups 2 instead of 1"),
        ({"untie_embeddings_and_output_weights": False}, "tied_embeddings True instead of False"),
        ({"normalization": "LayerNorm"}, "normalization LayerNorm instead of RMSNorm"),
        ({"add_bias_linear": True}, "add_bias_linear True instead of False"),
        ({"add_qkv_bias": True}, "qkv_bias True instead of False"),
        ({"use_rope_scaling": True, "rope_scaling_factor": 4.0}, "rope_scaling kind='llama3' factor=4.0"),
        ({"num_experts": 8}, "num_experts 8 instead of None"),
        ({"no_rope_freq": 4}, "no_rope_freq 4 instead of None"),
        ({"softmax_type": "off-by-one"}, "softmax_type off-by-one instead of vanilla"),
        ({"qk_l2_norm": True}, "qk_l2_norm True instead of False"),
        ({"vocab_size": 99}, r"a vocabulary of 99 \(padded 256\) instead of 100"),
    ],
)
def test_another_model_is_refused(changes: dict, told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "theirs", {EMBEDDING: torch.zeros(256, 8)}, **changes)
    with pytest.raises(SeedError, match=told):
        MegatronLmCheckpoint(path, MODEL)


@pytest.mark.parametrize("form", ["dp_reshardable", "dp_zero_gather_scatter", "fsdp_dtensor"])
def test_optimizer_state_bound_to_its_layout_is_refused_by_name(form: str, tmp_path: Path) -> None:
    state = {"optimizer": {"param_groups": [{"step": 10}]}, "param_state_sharding_type": form}
    path = write(tmp_path / "theirs", {EMBEDDING: torch.zeros(256, 8)}, state)
    with pytest.raises(SeedError, match=f"state is {form}.*--dist-ckpt-optim-fully-reshardable.*load=weights"):
        MegatronLmCheckpoint(path, MODEL).check_optimizer()


def test_no_arguments_no_checkpoint_of_megatron_lm(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs", {EMBEDDING: torch.zeros(256, 8)})
    torch.save({"iteration": 10}, path / "common.pt")
    with pytest.raises(SeedError, match=r"common\.pt: no arguments of Megatron-LM"):
        MegatronLmCheckpoint(path, MODEL)


@pytest.mark.parametrize("theirs", [104, 128, 256])
def test_another_padding_of_the_vocabulary(theirs: int, tmp_path: Path) -> None:
    tensor = torch.rand(theirs, 8)
    moment = f"optimizer.state.exp_avg.{EMBEDDING}"
    path = write(tmp_path / "theirs", {EMBEDDING: tensor, moment: tensor}, padded_vocab_size=theirs)
    checkpoint = MegatronLmCheckpoint(path, MODEL)
    for key in (EMBEDDING, moment):
        assert checkpoint.info(key).shape == (128, 8)
        read = checkpoint.read(key)
        assert torch.equal(read[:100], tensor[:100])
        assert not read[theirs:].any()
        assert torch.equal(checkpoint.read_slice(key, (96, 2), (32, 3)), read[96:, 2:5])


def test_norms_under_their_other_names(tmp_path: Path) -> None:
    theirs = "decoder.layers.input_layernorm.weight"
    ours = "decoder.layers.self_attention.linear_qkv.layer_norm_weight"
    state = "optimizer.state.exp_avg."
    tensors = {EMBEDDING: torch.zeros(256, 8), theirs: torch.rand(2, 8), state + theirs: torch.rand(2, 8)}
    checkpoint = MegatronLmCheckpoint(write(tmp_path / "theirs", tensors), MODEL)
    assert checkpoint.has(ours)
    assert torch.equal(checkpoint.read(ours), tensors[theirs])
    assert torch.equal(checkpoint.read(state + ours), tensors[state + theirs])


def write_flat(folder: Path, key: str, tensor: torch.Tensor, grid: list[int], cuts: Callable[[], list[int]]) -> None:
    """A tensor as a grid of parts, each flattened and cut anywhere: the form of megatron-core before 0.16."""
    from megatron.core.dist_checkpointing.strategies import torch as theirs

    own = [size // parts for size, parts in zip(tensor.shape, grid, strict=True)]
    length, chunks = math.prod(own), {}
    for cell in itertools.product(*map(range, grid)):
        box = tuple(slice(place * size, (place + 1) * size) for place, size in zip(cell, own, strict=True))
        borders = sorted({0, length, *(cut % length for cut in cuts())})
        for start, stop in itertools.pairwise(borders):
            chunks[(*cell, start)] = tensor[box].flatten()[start:stop].view(*(1,) * len(grid), -1)
    parts = [Part(key, (*grid, length), offsets, tuple(chunk.shape)) for offsets, chunk in chunks.items()]
    embedding = Part(EMBEDDING, (256, 8), (0, 0), (256, 8))
    write_torch_dist(
        folder,
        [*parts, embedding],
        torch.float32,
        lambda part: torch.zeros(256, 8) if part is embedding else chunks[part.offsets].clone(),
        {},
    )
    metadata = theirs.MCoreMetadata()
    metadata.__dict__.update(vars(pickle.loads((folder / ".metadata").read_bytes())))
    metadata.mcore_data = {key: {"nd_reformulated_orig_global_shape": tuple(tensor.shape)}, EMBEDDING: {}}
    metadata.all_local_plans = [theirs.MCoreSavePlan()]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@settings(max_examples=25)
@given(data=st.data())
def test_any_box_of_a_grid_of_flattened_parts(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    grid = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3), label="grid")
    shape = [parts * data.draw(st.integers(1, 4), label="own") for parts in grid]
    tensor = torch.rand(shape)
    folder = tmp_path_factory.mktemp("flat")
    key = "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc2.weight"
    write_flat(folder, key, tensor, grid, lambda: data.draw(st.lists(st.integers(0, 60), max_size=3), label="cuts"))
    stream = io.BytesIO()
    torch.save({"args": Namespace(**ARGS)}, stream)
    (folder / "common.pt").write_bytes(stream.getvalue())
    checkpoint = MegatronLmCheckpoint(folder, MODEL)
    assert checkpoint.info(key).shape == tuple(shape)
    assert torch.equal(checkpoint.read(key), tensor)
    offsets = [data.draw(st.integers(0, size - 1), label="offset") for size in shape]
    sizes = [data.draw(st.integers(1, size - at), label="size") for size, at in zip(shape, offsets, strict=True)]
    box = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
    assert torch.equal(checkpoint.read_slice(key, offsets, sizes), tensor[box])
