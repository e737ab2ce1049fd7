"""Generation agrees with transformers token by token, alone and in ragged batches; sampling is keyed and correct."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_seed import generate
from megatron_seed.errors import SeedError
from megatron_seed.generate import Generator, Sampling
from megatron_seed.hf.export import export_hf
from megatron_seed.hf.import_ import import_hf
from tokenizer.special import IDS

VOCAB_SIZE = 390
PROMPTS = [[17, 200, 350, 12], [300, 301, 302, 303, 304, 305, 306, 17, 18], [44, 45]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=300,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "hf")
    shutil.copytree(tokenizer_dir, folder / "hf", dirs_exist_ok=True)
    import_hf(folder / "hf", folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def generator(checkpoint: Path) -> Iterator[Generator]:
    with Generator.load(checkpoint, precision="fp32") as generator:
        yield generator


@pytest.fixture(scope="module")
def theirs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    out = tmp_path_factory.mktemp("export") / "hf"
    export_hf(checkpoint, out)
    return LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()


def test_greedy_is_what_transformers_generates(generator: Generator, theirs: LlamaForCausalLM) -> None:
    prompt = torch.tensor([PROMPTS[0]])
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=260, eos_token_id=None
    )
    no_stop = Generator(generator.model, generator.config)
    (ours,) = no_stop.generate([PROMPTS[0]], max_new_tokens=260)
    assert list(ours.ids) == expected[0, len(PROMPTS[0]) :].tolist()
    assert len(set(ours.ids)) > 20, "a text that says the same over and over would prove little"
    assert not ours.stopped


def test_greedy_in_a_ragged_batch_agrees_too(generator: Generator, theirs: LlamaForCausalLM) -> None:
    longest = max(map(len, PROMPTS))
    padded = torch.tensor([[1] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    expected = theirs.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=256, eos_token_id=None)
    ours = Generator(generator.model, generator.config).generate(PROMPTS, max_new_tokens=256)
    assert [list(one.ids) for one in ours] == expected[:, longest:].tolist()
    assert [one.prompt_ids for one in ours] == [tuple(prompt) for prompt in PROMPTS]


def test_logits_are_those_of_transformers(generator: Generator, theirs: LlamaForCausalLM) -> None:
    ids = torch.randint(0, VOCAB_SIZE, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(generator.logits(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_an_end_token_ends_its_row_alone(generator: Generator) -> None:
    free = Generator(generator.model, generator.config).generate(PROMPTS, max_new_tokens=40)
    stop = free[1].ids[5]
    stopping = Generator(generator.model, generator.config, stop_ids=[stop]).generate(PROMPTS, max_new_tokens=40)
    for before, after in zip(free, stopping, strict=True):
        length = before.ids.index(stop) if stop in before.ids else 40
        assert after.ids == before.ids[:length]
        assert after.stopped == (stop in before.ids)
    assert stopping[1].stopped and len(stopping[1].ids) <= 5


def test_samples_depend_on_their_own_prompt_only(generator: Generator) -> None:
    options = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 20, "seed": 5}
    alone = [generator.generate([prompt], **options)[0].ids for prompt in PROMPTS]
    together = generator.generate([*PROMPTS, PROMPTS[0]], **options)
    assert [one.ids for one in together[:3]] == alone
    assert together[3].ids != together[0].ids, "a prompt that comes twice is sampled twice"
    split = generator.generate([*PROMPTS, PROMPTS[0]], max_batch_size=2, **options)
    assert split == together
    assert generator.generate([PROMPTS[0]], **options | {"seed": 6})[0].ids != alone[0]


def test_samples_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    keys = [f"{number}".encode() for number in range(20_000)]
    chosen = generate._choose(logits.expand(len(keys), -1), keys, 7, Sampling(temperature=0.8))
    shares = torch.bincount(chosen, minlength=4) / len(keys)
    torch.testing.assert_close(shares, (logits / 0.8).softmax(0), rtol=0, atol=0.015)


@settings(max_examples=50, deadline=None)
@given(
    # Distinct by more than rounding, so that their order is the same in fp32 and fp64.
    logits=st.lists(st.integers(-20, 20).map(lambda quarter: quarter / 4), min_size=2, max_size=8, unique=True),
    top_p=st.floats(0.05, 1.0),
    position=st.integers(0, 1000),
)
def test_top_p_keeps_the_smallest_set_that_holds_it(logits: list[float], top_p: float, position: int) -> None:
    keys = [f"{number}".encode() for number in range(64)]
    chosen = generate._choose(
        torch.tensor(logits).expand(64, -1), keys, position, Sampling(temperature=1.0, top_p=top_p)
    )
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    probabilities = torch.tensor(logits, dtype=torch.float32).double().softmax(0)
    allowed, held = set(), 0.0
    for token in ranked:
        if held >= top_p + 1e-9:
            break
        allowed.add(token)
        held += float(probabilities[token])
    assert set(Counter(chosen.tolist())) <= allowed


def test_text_and_infilling(generator: Generator) -> None:
    prefix, suffix = "def f(x):\n    return ", "\n\nprint(f(1))\n"
    (completion,) = generator.generate([prefix], max_new_tokens=12)
    assert completion.text == generator.encoder.decode(completion.ids)
    prompt = generator.infilling_prompt(prefix, suffix)
    assert generator.encoder.decode(prompt) == f"<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>"
    assert [prompt[0], prompt[-1]] == [IDS["fim_suffix"], IDS["fim_middle"]]
    (infilled,) = generator.infill([(prefix, suffix)], max_new_tokens=12)
    assert infilled == generator.generate([prompt], max_new_tokens=12)[0]
    assert IDS["fim_middle"] not in generator.infilling_prompt("<[fim-middle]>", "")[:-1], "code is not markers"


def test_the_tokenizers_end_token_stops(generator: Generator) -> None:
    assert generator.stop_ids == {IDS["eos"]}


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ([], {}, "prompt 1 is empty"),
        ([3, VOCAB_SIZE], {}, "prompt 1: token 390 is not below vocab_size 390"),
        ([3] * 50, {"max_new_tokens": 251}, "50 tokens and 251 new ones do not fit the model's 300"),
        ([3], {"max_new_tokens": 0}, "max_new_tokens 0 is not positive"),
        ([3], {"temperature": -1.0}, "temperature -1.0 is negative"),
        ([3], {"top_p": 0.0}, "top_p 0.0 is not above 0"),
    ],
)
def test_impossible_requests_are_refused(generator: Generator, prompt: list[int], options: dict, words: str) -> None:
    with pytest.raises(SeedError, match=words):
        generator.generate([[5], prompt], **options)


def test_text_needs_a_tokenizer(generator: Generator) -> None:
    with pytest.raises(SeedError, match="carries no tokenizer: give prompts as token ids"):
        Generator(generator.model, generator.config).generate(["x"])


def test_a_checkpoint_of_another_shape_is_refused(generator: Generator, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    config = tmp_path / "copy" / "model.yaml"
    config.write_text(config.read_text().replace("hidden_size: 48", "hidden_size: 64"))
    with pytest.raises(SeedError, match=r"is \[\d+, .*the model has \[\d+"):
        Generator.load(tmp_path / "copy")
