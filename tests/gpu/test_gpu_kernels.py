"""One NVIDIA GPU with TransformerEngine: its kernels against torch's, and each way of computing against the plain one.

Run by `make test-gpu`. Without a GPU every test here is skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig, YarnRope
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import process_groups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not device.has_transformer_engine(), reason="needs a GPU and TransformerEngine"),
]
CONFIG = ModelConfig(**{**PRESETS["seed_coder_100m"], "num_layers": 4})
LENGTH, ROWS = 512, 2


@contextmanager
def groups() -> Iterator[None]:
    with process_groups(LayoutConfig(), seed=0):
        yield


def build(spec: str, config: ModelConfig = CONFIG, **compute: Any) -> torch.nn.Module:
    from megatron_seed.model.build import Compute, build_model

    return build_model(config, LayoutConfig(), Compute(**{"precision": "bf16", **compute}), seed=1, spec=spec)[0]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, CONFIG.vocab_size, (ROWS, LENGTH + 1), generator=generator).cuda()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.arange(LENGTH).expand(ROWS, -1).cuda()


def loss_and_gradients(model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Gradients under the names that both specs save their parameters by."""
    tokens, labels, positions = batch()
    loss = model(tokens, positions, None, labels=labels).float().mean()
    loss.backward()
    norms = {
        "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
        "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    }
    gradients = {}
    for name, parameter in model.named_parameters():
        for ours, saved in norms.items():
            name = name.replace(ours, saved)
        gradients[name] = parameter.grad.float()
    return loss.detach(), gradients


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_transformer_engine_agrees_with_sdpa() -> None:
    with groups():
        loss, gradients = loss_and_gradients(build("te"))
        expected, expected_gradients = loss_and_gradients(build("sdpa"))
    assert loss.item() == pytest.approx(expected.item(), abs=5e-3)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < 0.05, name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True},
        {"qk_norm": True},
        {"rope_scaling": YarnRope(kind="yarn", factor=4.0, original_max_sequence_length=128)},
    ],
    ids=["llama", "qwen2", "qwen3", "yarn"],
)
def test_logits_agree_in_fp32(changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    with groups(), torch.no_grad():
        tokens, _, positions = batch()
        one, other = (build(spec, config, precision="fp32")(tokens, positions, None) for spec in ("te", "sdpa"))
    assert relative(one, other) < 5e-3  # TransformerEngine multiplies in TF32


@pytest.mark.parametrize(
    ("spec", "own_attention"), [("te", False), ("te", True), ("sdpa", False)], ids=["te", "te, own attention", "sdpa"]
)
def test_packed_documents_are_as_they_are_alone(spec: str, own_attention: bool) -> None:
    from megatron_seed.train.step import _packed

    with groups(), torch.no_grad():
        model = build(spec, own_attention=own_attention).eval()
        tokens = batch()[0][:1]
        ends = [0, 100, 101, 350, LENGTH]
        packed = _packed(torch.tensor(ends, dtype=torch.int32).cuda())
        together = model(tokens, torch.arange(LENGTH)[None].cuda(), None, packed_seq_params=packed)[0].float()
        for start, stop in itertools.pairwise(ends):
            alone = model(tokens[:, start:stop], torch.arange(stop - start)[None].cuda(), None)[0].float()
            assert relative(together[start:stop], alone) < 0.02


def test_our_attention_between_layers_of_transformer_engine_agrees_with_theirs() -> None:
    with groups():
        loss, gradients = loss_and_gradients(build("te", own_attention=True))
        expected, expected_gradients = loss_and_gradients(build("te"))
    assert loss.item() == pytest.approx(expected.item(), abs=5e-3)
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < 0.05, name


def test_the_loss_in_chunks_is_the_loss() -> None:
    with groups():
        loss, gradients = loss_and_gradients(build("te", loss_chunk_tokens=100))
        expected, expected_gradients = loss_and_gradients(build("te"))
    assert loss.item() == pytest.approx(expected.item(), abs=2e-3)
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < 0.03, name


def test_accumulating_in_the_product_equals_accumulating_after_it() -> None:
    from megatron_seed.runtime.weight_gradient import accumulate

    generator = torch.Generator("cuda").manual_seed(0)
    inputs, grad = (torch.randn(4096, n, generator=generator, device="cuda").bfloat16() for n in (256, 512))
    total = torch.randn(512, 256, generator=generator, device="cuda")
    expected = total.double() + grad.double().t() @ inputs.double()
    accumulate(inputs, grad, total)
    torch.testing.assert_close(total.double(), expected, rtol=1e-3, atol=1e-2)
