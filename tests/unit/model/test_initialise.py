"""Initial parameters depend on seed and name alone, not on how they are spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.runtime.groups import process_groups

WRITE = Path(__file__).parents[2] / "distributed" / "write_initial_parameters.py"
CONFIG = ModelConfig(**{**PRESETS["seed_coder_tiny"], "vocab_size": 120, "init_std": 0.03})
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"


@pytest.fixture(scope="module")
def groups() -> Iterator[None]:
    with process_groups(LayoutConfig(), seed=0):
        yield


@pytest.fixture
def initial(groups: None) -> Callable[..., dict[str, torch.Tensor]]:
    def make(config: ModelConfig = CONFIG, seed: int = 7, precision: str = "fp32") -> dict[str, torch.Tensor]:
        from megatron_seed.model.build import build_model

        (chunk,) = build_model(config, LayoutConfig(), precision, seed=seed)
        return {name: parameter.detach() for name, parameter in chunk.named_parameters()}

    return make


def test_standard_deviations_are_those_documented(initial: Callable) -> None:
    config = CONFIG.model_copy(update={"hidden_size": 256, "ffn_hidden_size": 512, "vocab_size": 1000})
    parameters = initial(config.model_copy(update={"qkv_bias": True, "qk_norm": True}))
    assert len(parameters) == 9 * config.num_layers + 3
    for name, parameter in parameters.items():
        if parameter.dim() == 1:
            assert (parameter == (0 if name.endswith(".bias") else 1)).all(), name
            continue
        std = config.init_std
        if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
            std /= math.sqrt(2 * config.num_layers)
        assert parameter.std().item() == pytest.approx(std, rel=0.03), name
        assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name


def test_no_two_tensors_are_alike_and_another_seed_changes_all(initial: Callable) -> None:
    one, other = initial(seed=7), initial(seed=8)
    matrices = {name: parameter for name, parameter in one.items() if parameter.dim() > 1}
    beginnings = {tuple(parameter.flatten()[:8].tolist()) for parameter in matrices.values()}
    assert len(beginnings) == len(matrices)
    assert not any(torch.equal(parameter, other[name]) for name, parameter in matrices.items())
    assert all(torch.equal(parameter, same) for parameter, same in zip(one.values(), initial().values(), strict=True))


def test_bf16_parameters_are_the_rounded_fp32_ones(initial: Callable) -> None:
    exact, rounded = initial(), initial(precision="bf16")
    assert all(torch.equal(exact[name].bfloat16(), parameter) for name, parameter in rounded.items())


def test_a_tied_model_has_one_matrix_for_both_ends(initial: Callable) -> None:
    tied = initial(CONFIG.model_copy(update={"tied_embeddings": True}))
    assert tied.keys() == initial().keys() - {HEAD}
    assert torch.equal(tied[EMBEDDING], initial()[EMBEDDING])


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("decoder.layers.0.self_attention.linear_qkv.weight", 0),
        ("decoder.layers.0.self_attention.linear_qkv.bias", 0),
        ("decoder.layers.0.self_attention.q_layernorm.weight", None),
        ("decoder.layers.0.self_attention.linear_proj.weight", 1),
        ("decoder.layers.0.mlp.linear_fc2.weight", 1),
        (EMBEDDING, 0),
        (HEAD, 0),
        ("decoder.final_layernorm.weight", None),
    ],
)
def test_shards_put_together_are_the_whole(
    name: str, dimension: int | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.arange(8 * 12.0).view(8, 12)
    parts = shards(name, whole, size, monkeypatch)
    if dimension is None:
        assert all(torch.equal(part, whole) for part in parts)
    else:
        assert torch.equal(torch.cat(parts, dimension), whole)


def test_each_shard_of_fc1_has_gate_rows_and_the_up_rows_that_belong_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(16.0).view(16, 1)  # 8 gate rows, then 8 up rows
    first, second = shards("decoder.layers.0.mlp.linear_fc1.weight", whole, 2, monkeypatch)
    assert first.flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert second.flatten().tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def shards(name: str, whole: torch.Tensor, size: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What each of `size` tensor-parallel ranks takes of a whole parameter."""
    from megatron.core import parallel_state

    from megatron_seed.model.initialise import shard_of

    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: size)
    parts = []
    for rank in range(size):
        monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_rank", lambda rank=rank: rank)
        parts.append(shard_of(name, whole))
    return parts


def test_every_layout_starts_from_the_same_parameters(initial: Callable, start: Callable, tmp_path: Path) -> None:
    """Four processes hold the model at TP2 x PP2; tied, so that the last stage has a copy of the embedding."""
    config = CONFIG.model_copy(update={"tied_embeddings": True})
    (tmp_path / "model.json").write_text(config.model_dump_json())
    start(WRITE, tmp_path, 7, processes=4)
    whole = initial(config)
    for pipeline_rank in (0, 1):
        halves = [torch.load(tmp_path / f"tensor{rank}-pipeline{pipeline_rank}.pt") for rank in (0, 1)]
        assert (EMBEDDING in halves[0], HEAD in halves[0]) == ((True, False), (False, True))[pipeline_rank]
        for name, first in halves[0].items():
            expected = whole[EMBEDDING if name == HEAD else name]
            assert torch.equal(joined(name, first, halves[1][name]), expected), name


def joined(name: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A parameter from the halves of two tensor-parallel ranks."""
    if name.endswith("linear_fc1.weight"):
        gates, ups = zip(first.chunk(2), second.chunk(2), strict=True)
        return torch.cat([*gates, *ups])
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return torch.cat([first, second], 1)
    if first.dim() == 1:
        assert torch.equal(first, second)
        return first
    return torch.cat([first, second])
