"""The rows cover transformers' models exactly, and packing is undone exactly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.architectures import ARCHITECTURES, architecture_of, to_model_config
from megatron_seed.hf.mapping import GATE_UP, QKV, rows_of
from megatron_seed.hf.slices import hf_shapes
from megatron_seed.model.arithmetic import parameter_count

UNTIED = ModelConfig(**PRESETS["seed_coder_tiny"])


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    groups = draw(st.integers(1, 4))
    return ModelConfig(
        num_layers=1,
        hidden_size=draw(st.integers(1, 6)),
        ffn_hidden_size=draw(st.integers(1, 9)),
        num_attention_heads=groups * draw(st.integers(1, 4)),
        num_query_groups=groups,
        head_dim=draw(st.integers(1, 4)) * 2,
        vocab_size=8,
    )


@given(configs(), st.booleans())
def test_qkv_splits_and_joins_exactly(config: ModelConfig, bias: bool) -> None:
    rest = () if bias else (config.hidden_size,)
    rows = (config.num_attention_heads + 2 * config.num_query_groups) * config.head_dim
    packed = torch.randn(rows, *rest)
    query, key, value = QKV.split(packed, config)
    assert query.shape == (config.num_attention_heads * config.head_dim, *rest)
    assert key.shape == value.shape == (config.num_query_groups * config.head_dim, *rest)
    assert torch.equal(QKV.join((query, key, value), config), packed)


@given(configs())
def test_qkv_lies_group_by_group(config: ModelConfig) -> None:
    """Each group's query heads, then its key head, then its value head."""
    size = config.head_dim
    heads = iter(torch.randn(config.num_attention_heads + 2 * config.num_query_groups, size, 3))
    query, key, value, packed = [], [], [], []
    for _ in range(config.num_query_groups):
        mine = [next(heads) for _ in range(config.num_attention_heads // config.num_query_groups)]
        key.append(next(heads))
        value.append(next(heads))
        query += mine
        packed += [*mine, key[-1], value[-1]]
    split = QKV.split(torch.cat(packed), config)
    assert [part.tolist() for part in split] == [torch.cat(part).tolist() for part in (query, key, value)]


@given(configs())
def test_gate_comes_before_up(config: ModelConfig) -> None:
    gate, up = torch.randn(2, config.ffn_hidden_size, config.hidden_size)
    packed = GATE_UP.join((gate, up), config)
    assert torch.equal(packed, torch.cat([gate, up]))
    assert all(torch.equal(a, b) for a, b in zip(GATE_UP.split(packed, config), (gate, up), strict=True))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"tie_word_embeddings": True}, {"head_dim": 8}])
def test_rows_cover_every_parameter(hf_model: Callable[..., PreTrainedModel], kind: str, changes: dict) -> None:
    model = hf_model(kind, **changes)
    (architecture,) = (one for one in ARCHITECTURES if one.name == type(model).__name__)
    config = to_model_config(architecture, model.config, vocab_multiple=128)
    assert architecture_of(config) is architecture
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert hf_shapes(architecture.rows(config), config) == theirs
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())


def test_a_model_without_an_architecture_is_refused(tiny_config: ModelConfig) -> None:
    both = tiny_config.model_copy(update={"qkv_bias": True, "qk_norm": True})
    with pytest.raises(SeedError, match="no Hugging Face architecture known here has qkv_bias True, qk_norm True"):
        architecture_of(both)


def test_the_page_has_every_row() -> None:
    page = (Path(__file__).parents[3] / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    for row in {row for architecture in ARCHITECTURES for row in rows_of(architecture.layer_rows, UNTIED)}:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{row.megatron}` |"))
        kind = row.hf[0].removeprefix("model.layers.{layer}.").replace("q_proj", "{q,k,v}_proj")
        assert f"| `{kind.replace('gate_proj', '{gate,up}_proj')}` |" in line
