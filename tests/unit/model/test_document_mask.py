"""Packed documents do not see each other: each gives the logits it gives alone, whatever its neighbours hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.runtime.groups import process_groups

LENGTHS = (7, 1, 20, 12)


@pytest.fixture(scope="module")
def model() -> Iterator[torch.nn.Module]:
    with process_groups(LayoutConfig(), seed=0):
        from megatron_seed.model.build import build_model

        config = ModelConfig(**{**PRESETS["seed_coder_tiny"], "init_std": 0.2})
        yield build_model(config, LayoutConfig(), seed=1)[0].eval()


def packed_logits(model: torch.nn.Module, documents: list[torch.Tensor]) -> list[torch.Tensor]:
    from megatron_seed.train.step import _packed

    tokens = torch.cat(documents)[None]
    ends = torch.tensor([0, *torch.tensor([len(d) for d in documents]).cumsum(0).tolist()], dtype=torch.int32)
    positions = torch.arange(tokens.shape[1])[None]
    with torch.no_grad():
        logits = model(tokens, positions, None, packed_seq_params=_packed(ends))
    return list(logits[0].split([len(document) for document in documents]))


def documents(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 128, (length,), generator=generator) for length in LENGTHS]


def test_each_document_is_as_it_is_alone(model: torch.nn.Module) -> None:
    together = packed_logits(model, documents(0))
    for document, logits in zip(documents(0), together, strict=True):
        with torch.no_grad():
            alone = model(document[None], torch.arange(len(document))[None], None)[0]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def test_disturbing_a_neighbour_changes_nothing(model: torch.nn.Module) -> None:
    before = packed_logits(model, documents(0))
    changed = documents(0)
    changed[0] = (changed[0] + 1) % 128
    after = packed_logits(model, changed)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))
