"""What a machine cannot do is refused before anything starts, with what to install; documents over ranks are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.runtime import device
from megatron_seed.runtime.features import check_features

needs_no_gpu = pytest.mark.skipif(device.has_transformer_engine(), reason="this machine can do it")


@needs_no_gpu
@pytest.mark.parametrize("scaling", ["current", "delayed"])
def test_fp8_without_transformer_engine_is_refused_with_what_to_install(
    scaling: str, tiny_recipe: Callable[..., Path]
) -> None:
    recipe = load_recipe(tiny_recipe(precision="bf16"), [f"fp8={scaling}"])
    with pytest.raises(
        SeedError, match=rf"fp8: {scaling} needs TransformerEngine and a GPU: install the extra .*\[gpu\]"
    ):
        check_features(recipe)


def test_fp8_on_an_older_gpu_or_in_fp32_is_refused(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_transformer_engine", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    recipe = load_recipe(tiny_recipe(), ["fp8=current"])
    with pytest.raises(SeedError) as refused:
        check_features(recipe)
    assert "needs an Ada, Hopper or newer GPU, this is NVIDIA A100" in str(refused.value)
    assert "fp8: current needs precision: bf16, not fp32" in str(refused.value)


@needs_no_gpu
def test_a_run_is_refused_before_its_first_collective(tiny_recipe: Callable[..., Path], start: Callable) -> None:
    recipe = tiny_recipe(precision="bf16")
    ended = start("-m", "megatron_seed.train", recipe, "fp8=current", check=False)
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("megatron-seed:"))
    assert ended.returncode == 2 and "needs TransformerEngine" in line
    assert not (recipe.with_suffix("") / "checkpoints").exists()


def test_documents_over_ranks_get_our_attention_in_a_model_of_their_own(tiny_recipe: Callable[..., Path]) -> None:
    from megatron_seed.train.run import _stretches, compute_of

    phase = load_recipe(tiny_recipe()).phases[0].model_dump()
    phases = [{**phase, "name": "plain"}, {**phase, "name": "masked", "document_mask": True}]
    recipe = load_recipe(tiny_recipe(phases=phases))
    assert [len(stretch) for stretch in _stretches(recipe)] == [2]
    check_features(recipe)
    split = load_recipe(tiny_recipe(phases=phases), ["layout.context_parallel=2"])
    assert [compute_of(split, phase).own_attention for phase in split.phases] == [False, True]
    assert [len(stretch) for stretch in _stretches(split)] == [1, 1]
