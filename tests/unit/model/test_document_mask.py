"""Packed documents do not see each other: each gives the logits it gives alone, whatever its neighbours hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.model.context import ranges_of
from megatron_seed.runtime.groups import process_groups

LENGTHS = (7, 1, 20, 12)
CONFIG = {**PRESETS["seed_coder_tiny"], "init_std": 0.2}
TWO_RANKS = Path(__file__).parents[2] / "distributed" / "masked_logits_on_two_ranks.py"


@pytest.fixture(scope="module")
def model() -> Iterator[torch.nn.Module]:
    with process_groups(LayoutConfig(), seed=0):
        from megatron_seed.model.build import build_model

        yield build_model(ModelConfig(**CONFIG), LayoutConfig(), seed=1)[0].eval()


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


def alone(model: torch.nn.Module, document: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(document[None], torch.arange(len(document))[None], None)[0]


def test_each_document_is_as_it_is_alone(model: torch.nn.Module) -> None:
    for document, logits in zip(documents(0), packed_logits(model, documents(0)), strict=True):
        torch.testing.assert_close(logits, alone(model, document), rtol=0, atol=1e-5)


def test_each_document_is_as_it_is_alone_when_two_processes_share_a_row(
    model: torch.nn.Module, start: Callable, tmp_path: Path
) -> None:
    """Their pieces end at 10, 20 and 30: in the middle of documents."""
    torch.save({"config": CONFIG, "documents": documents(0)}, tmp_path / "documents.pt")
    start(TWO_RANKS, tmp_path, processes=2)
    logits = torch.full((sum(LENGTHS), ModelConfig(**CONFIG).padded_vocab_size), torch.nan)
    for rank in range(2):
        parts = torch.load(tmp_path / f"rank{rank}.pt").chunk(2)
        for (first, stop), part in zip(ranges_of(rank, 2, sum(LENGTHS)), parts, strict=True):
            logits[first:stop] = part
    for document, together in zip(documents(0), logits.split(LENGTHS), strict=True):
        torch.testing.assert_close(together, alone(model, document), rtol=0, atol=1e-5)


def test_disturbing_a_neighbour_changes_nothing(model: torch.nn.Module) -> None:
    before = packed_logits(model, documents(0))
    changed = documents(0)
    changed[0] = (changed[0] + 1) % 128
    after = packed_logits(model, changed)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))
