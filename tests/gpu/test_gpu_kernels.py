"""One NVIDIA GPU with TransformerEngine: its kernels against torch's, and each way of computing against the plain one.

Run by `make test-gpu`. Without a GPU every test here is skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig, OptimizerConfig, YarnRope
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import Groups, process_groups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not device.has_transformer_engine(), reason="needs a GPU and TransformerEngine"),
]
CONFIG = ModelConfig(**{**PRESETS["seed_coder_100m"], "num_layers": 4})
LENGTH, ROWS = 512, 2
RATE = 1e-3


@contextmanager
def groups() -> Iterator[Groups]:
    with process_groups(LayoutConfig(), seed=0) as found:
        yield found


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


def in_training(spec: str) -> tuple[list[Any], Any]:
    """A model with its gradient buffers, and its optimizer."""
    from megatron_seed.optim.build import build_optimizer, set_learning_rate, wrap_data_parallel

    models = wrap_data_parallel([build(spec)], LayoutConfig())
    optimizer = build_optimizer(models, OptimizerConfig(), LayoutConfig(), "bf16")
    set_learning_rate(optimizer, RATE)
    return models, optimizer


def test_fifty_steps_of_both_specs_have_the_same_loss() -> None:
    from megatron_seed.train.step import train_step

    text = torch.from_numpy(np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int64))
    losses = {}
    for spec in ("te", "sdpa"):
        with groups() as found:
            models, optimizer = in_training(spec)
            losses[spec] = []
            for step in range(50):
                rows = torch.stack([text[101 * (step + row) :][: LENGTH + 1] for row in range(ROWS)])
                batch = {"tokens": rows[:, :-1], "labels": rows[:, 1:], "loss_mask": torch.ones(ROWS, LENGTH)}
                losses[spec].append(train_step(models, optimizer, [batch], found).loss)
    print(losses)
    assert losses["te"][-1] < losses["te"][0] / 2
    assert losses["te"] == pytest.approx(losses["sdpa"], abs=0.1)
    assert sum(losses["te"][-10:]) == pytest.approx(sum(losses["sdpa"][-10:]), abs=10 * 0.03)


def test_fused_adam_is_torchs_adamw() -> None:
    config = OptimizerConfig()
    with groups():
        (model,), optimizer = in_training("te")
        pairs = [(parameter, parameter.main_param.detach().clone()) for parameter in model.parameters()]
        decays = {True: config.weight_decay, False: 0.0}
        theirs = torch.optim.AdamW(
            [
                {"params": [own for parameter, own in pairs if (parameter.dim() > 1) == matrix], "weight_decay": decay}
                for matrix, decay in decays.items()
            ],
            lr=RATE,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
        )
        began = [own.clone() for _, own in pairs]
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            for parameter, own in pairs:
                own.grad = torch.randn(own.shape, generator=generator).to(own.device) * 10.0 ** (step - 3)
                parameter.main_grad.copy_(own.grad.view_as(parameter.main_grad))
            optimizer.prepare_grads()
            optimizer.step_with_ready_grads()
            theirs.step()
    for (parameter, own), before in zip(pairs, began, strict=True):
        assert relative(parameter.main_param.view_as(own) - before, own - before) < 1e-4
        assert torch.equal(parameter.main_param.view_as(parameter).bfloat16(), parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [0, 37])
def test_the_fused_loss_is_torchs_without_the_padding(dtype: torch.dtype, padding: int) -> None:
    from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy

    generator = torch.Generator("cuda").manual_seed(0)
    real = 50_000
    logits = (torch.randn(300, 2, real + padding, generator=generator, device="cuda") * 4).to(dtype)
    labels = torch.randint(0, real, (300, 2), generator=generator, device="cuda")
    weights = torch.rand(300, 2, generator=generator, device="cuda").mul_(labels % 3 > 0)  # a third of them masked
    leaf = logits.clone().requires_grad_()
    with groups():
        loss = vocab_parallel_cross_entropy(leaf * 1.0, labels, real)  # a copy: logits are overwritten
        (loss * weights).sum().backward()
    other = logits.double().requires_grad_()
    expected = F.cross_entropy(other[..., :real].flatten(0, 1), labels.flatten(), reduction="none").view(300, 2)
    (expected * weights).sum().backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-4)
    assert not leaf.grad[..., real:].any()
    assert relative(leaf.grad.double(), other.grad) < (1e-5 if dtype == torch.float32 else 5e-3)


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
