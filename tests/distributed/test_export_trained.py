"""A model trained at TP2 x PP2 is the same model in transformers, and comes back from there bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from megatron_seed.checkpoint.layout import resolve
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.generate import Generator
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf

VOCABULARY = 120
CONTEXT = 320
# Norms and logits of a model that has learnt something, not the near-uniform ones of its beginning.
LEARNING_RATE = 1e-2
PROMPTS = [[7, 22, 5], [90, 31, 14, 43, 60, 61, 3, 10, 100, 61], [1]]


class Trained:
    """One training run and what was made of it."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = checkpoint
        self.hf = folder / "hf"
        export_hf(checkpoint, self.hf)
        self.theirs = LlamaForCausalLM.from_pretrained(self.hf, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def cache() -> dict[str, Trained]:
    """Training is expensive; the fixtures that can do it live for one test only."""
    return {}


@pytest.fixture
def trained(cache: dict, tiny_recipe: Callable, start: Callable, tmp_path: Path) -> Trained:
    if "trained" not in cache:
        recipe = tiny_recipe(
            "trained",
            model={
                "preset": "seed_coder_tiny",
                "vocab_size": VOCABULARY,
                "max_sequence_length": CONTEXT,
                "init_std": 0.1,
            },
            layout={"tensor_parallel": 2, "pipeline_parallel": 2, "sequence_parallel": True},
            checkpoint={"every_steps": 100},
        )
        start("-m", "megatron_seed.train", recipe, f"phases.0.learning_rate={LEARNING_RATE}", processes=4)
        cache["trained"] = Trained(resolve(recipe.with_suffix("")), tmp_path)
    return cache["trained"]


@pytest.fixture
def ours(trained: Trained) -> Iterator[Generator]:
    with Generator.load(trained.checkpoint, precision="fp32") as generator:
        yield generator


def test_padding_stays_behind(trained: Trained) -> None:
    config = read_model_config(trained.checkpoint)
    assert (config.vocab_size, config.padded_vocab_size) == (VOCABULARY, 128)
    assert CheckpointReader(trained.checkpoint).info("output_layer.weight").shape == (128, 64)
    assert trained.theirs.lm_head.weight.shape == trained.theirs.model.embed_tokens.weight.shape == (VOCABULARY, 64)


def test_logits_agree_up_to_the_end_of_the_context(trained: Trained, ours: Generator) -> None:
    ids = torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained.theirs(ids).logits
    logits = ours.logits(ids)
    assert logits.shape == (3, CONTEXT, VOCABULARY)
    assert expected.std() > 0.5, "near-uniform logits would prove little"
    assert ((logits - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_greedy_tokens_agree_alone_and_in_a_ragged_batch(trained: Trained, ours: Generator) -> None:
    count = 256
    alone = [ours.generate([prompt], max_new_tokens=count)[0].ids for prompt in PROMPTS]
    assert all(len(ids) == count for ids in alone)
    assert len({token for ids in alone for token in ids}) > 10, "the same few tokens would prove little"
    together = [completion.ids for completion in ours.generate(PROMPTS, max_new_tokens=count)]
    assert together == alone

    longest = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    options = {"do_sample": False, "max_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
    batch = trained.theirs.generate(padded, attention_mask=mask, **options)[:, longest:]
    assert [tuple(row) for row in batch.tolist()] == alone
    first = torch.tensor(PROMPTS[:1])
    output = trained.theirs.generate(first, attention_mask=torch.ones_like(first), **options)
    assert tuple(output[0, first.shape[1] :].tolist()) == alone[0]


def test_an_import_of_the_export_has_the_trained_tensors(trained: Trained, tmp_path: Path) -> None:
    import_hf(trained.hf, tmp_path / "imported")
    before, after = CheckpointReader(trained.checkpoint), CheckpointReader(tmp_path / "imported")
    assert before.tensors == after.tensors
    for key in before.tensors:
        one, other = before.read(key), after.read(key)
        if key in ("embedding.word_embeddings.weight", "output_layer.weight"):  # the padding is zeros after an import
            one, other = one[:VOCABULARY], other[:VOCABULARY]
        assert torch.equal(one, other), key
    ours, theirs = read_model_config(trained.checkpoint), read_model_config(tmp_path / "imported")
    assert ours == theirs
