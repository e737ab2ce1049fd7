"""Is a Hugging Face directory the same model as a checkpoint? Its tensors bit by bit, then what both models compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.schema import ModelConfig
from megatron_seed.generate import Generator
from megatron_seed.hf.architectures import architecture_of, read_hf_config, to_model_config
from megatron_seed.hf.slices import check_tensors, hf_shapes, hf_sources, tracked
from megatron_seed.hf.special import load_tokenizer, read_special_ids
from megatron_seed.hf.weights import HfWeights
from tokenizer.encode import Encoder

_PLAIN = "def binary_search(items, target):\n    low, high = 0, len(items) - 1\n    while low <= high:\n"
_CONVERSATION = [{"role": "user", "content": "Write a function that reverses a string."}]
_PREFIX, _SUFFIX = "def mean(values):\n    total = ", "\n    return total / len(values)\n"


@dataclass(frozen=True)
class VerifyReport:
    """What was compared. `ok` means that nothing differed."""

    dtype: str
    """Of the Hugging Face tensors."""
    tensors: int
    """Compared bit by bit."""
    logit_difference: Mapping[str, float] = field(default_factory=dict)
    """Per kind of prompt: the largest difference of two fp32 logits over the largest logit."""
    bf16_divergence: Mapping[str, float] = field(default_factory=dict)
    """Per kind of prompt: mean Kullback-Leibler divergence of transformers in bf16 from us in fp32, nats per token."""
    greedy_tokens: int = 0
    """Chosen alike by both models."""
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_hf(
    checkpoint: Path,
    hf: Path,
    *,
    tolerance: float = 1e-4,
    bf16_tolerance: float = 0.01,
    random_tokens: int = 64,
    max_new_tokens: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare config, tokenizer and every tensor; then, if those agree, fp32 logits and greedy tokens of both models,
    and how far transformers in bf16 is from them.

    Tensors must be bit-equal to the checkpoint's after conversion to the dtype of the files; the training model
    computes with the same rounded weights. Prompts are random tokens and, where the checkpoint carries a tokenizer,
    plain code, infilling and, with a chat template, a conversation. `tolerance` is relative to the largest logit,
    `bf16_tolerance` a divergence in nats per token. Raises SeedError for what cannot be read.
    """
    checkpoint, hf = Path(checkpoint), Path(hf)
    reader, config = CheckpointReader(checkpoint), read_model_config(checkpoint)
    check_tensors(reader, architecture_of(config).rows(config), config)
    weights = HfWeights(hf)
    problems = [*_config_problems(checkpoint, hf, config), *_tokenizer_problems(checkpoint, hf)]
    problems += _name_problems(weights, config)
    dtype = next(iter(weights.dtypes.values()), torch.float32)
    report = VerifyReport(str(dtype).removeprefix("torch."), 0, problems=tuple(problems))
    if not problems:
        compared, differing = _compare_tensors(reader, weights, config, dtype, progress)
        report = replace(report, tensors=compared, problems=tuple(differing))
    if report.problems:
        return report
    with Generator.load(checkpoint, precision="fp32", weights_as=dtype) as generator:
        prompts = dict(_prompts(generator, hf, random_tokens, seed))
        return _compare_models(report, generator, hf, prompts, tolerance, bf16_tolerance, max_new_tokens)


def _compare_models(
    report: VerifyReport,
    generator: Generator,
    hf: Path,
    prompts: Mapping[str, list[int]],
    tolerance: float,
    bf16_tolerance: float,
    max_new_tokens: int,
) -> VerifyReport:
    ours = {name: generator.logits(torch.tensor([ids])).cpu() for name, ids in prompts.items()}
    model = _load(hf, torch.float32)
    differences = {name: _difference(ours[name], _logits(model, ids)) for name, ids in prompts.items()}
    tokens, differing = _compare_greedy(generator, model, prompts, max_new_tokens)
    del model
    model = _load(hf, torch.bfloat16)
    divergences = {name: _divergence(ours[name], _logits(model, ids)) for name, ids in prompts.items()}
    problems = [
        f"logits of the {name} prompt differ by {value:.2e} of the largest, more than {tolerance:.0e}"
        for name, value in differences.items()
        if not value <= tolerance
    ]
    problems += differing
    problems += [
        f"in bf16 the {name} prompt's predictions are {value:.2e} nats per token away, more than {bf16_tolerance}"
        for name, value in divergences.items()
        if not value <= bf16_tolerance
    ]
    return replace(
        report,
        logit_difference=differences,
        bf16_divergence=divergences,
        greedy_tokens=tokens,
        problems=tuple(problems),
    )


def _load(hf: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        hf, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )


def _config_problems(checkpoint: Path, hf: Path, config: ModelConfig) -> list[str]:
    architecture, hf_config = read_hf_config(hf)
    special = asdict(read_special_ids(checkpoint, config))
    ours = config.model_dump() | {f"{role}_token_id": token for role, token in special.items()}
    theirs = to_model_config(architecture, hf_config, config.vocab_multiple).model_dump()
    theirs |= {f"{role}_token_id": getattr(hf_config, f"{role}_token_id") for role in special}
    return [
        f"config.json: {name} {theirs[name]}, the checkpoint has {value}"
        for name, value in ours.items()
        if theirs[name] != value
    ]


def _tokenizer_problems(checkpoint: Path, hf: Path) -> list[str]:
    ours = load_tokenizer(checkpoint)
    if ours is None:
        return []
    if not (hf / "tokenizer.json").is_file():
        return [f"{hf}: no tokenizer.json, though the checkpoint carries a tokenizer"]
    same = Encoder.load(hf).digest == ours.digest
    return [] if same else [f"{hf / 'tokenizer.json'} is not the checkpoint's tokenizer"]


def _name_problems(weights: HfWeights, config: ModelConfig) -> list[str]:
    expected = hf_shapes(architecture_of(config).rows(config), config)
    for name, shape in expected.items():
        if weights.shapes.get(name) != shape:
            found = list(weights.shapes[name]) if name in weights.shapes else "missing"
            return [f"{name} is {found}, not {list(shape)}"]
    return [f"{name} is not part of the model" for name in sorted(set(weights.shapes) - set(expected))[:1]]


def _compare_tensors(
    reader: CheckpointReader,
    weights: HfWeights,
    config: ModelConfig,
    dtype: torch.dtype,
    progress: Progress | None,
) -> tuple[int, list[str]]:
    """How many tensors are bit-equal, and the first that is not."""
    rows = architecture_of(config).rows(config)
    sources = hf_sources(rows, config)
    for number, source in enumerate(tracked(sources.values(), len(sources), "compare tensors", progress)):
        name, ours, theirs = source.name, source.read(reader, dtype), weights.read(source.name)
        if theirs.dtype != dtype:
            return number, [f"{name} is {theirs.dtype}, tensors before it {dtype}"]
        if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
            count = int((ours != theirs).sum())
            return number, [f"{name} differs from the checkpoint in {count} of {ours.numel()} elements"]
    return len(weights.shapes), []


def _prompts(generator: Generator, hf: Path, random_tokens: int, seed: int) -> Iterator[tuple[str, list[int]]]:
    vocabulary, length = generator.config.vocab_size, generator.config.max_sequence_length
    random = np.random.Generator(np.random.Philox(seed)).integers(0, vocabulary, min(random_tokens, length // 2))
    yield "random", random.tolist()
    encoder = generator.encoder
    if encoder is None:
        return
    yield "plain", encoder.encode(_PLAIN)[: length // 2]
    special = encoder.special
    if None not in (special.fim_suffix, special.fim_prefix, special.fim_middle):
        yield "infilling", generator.infilling_prompt(_PREFIX, _SUFFIX)[-(length // 2) :]
    chat = _chat_prompt(hf)
    if chat:
        yield "chat", encoder.encode(chat, markers=True)[: length // 2]


def _chat_prompt(hf: Path) -> str | None:
    """A conversation in the model's template, None without one."""
    tokenizer = AutoTokenizer.from_pretrained(hf, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        return None
    return tokenizer.apply_chat_template(_CONVERSATION, tokenize=False, add_generation_prompt=True)


@torch.no_grad()
def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits.float()


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    one, other = ours.log_softmax(-1), theirs.log_softmax(-1)
    return float((one.exp() * (one - other)).sum(-1).mean())


def _compare_greedy(
    generator: Generator, model: Any, prompts: Mapping[str, list[int]], max_new_tokens: int
) -> tuple[int, list[str]]:
    """How many greedy tokens agree, and the first prompt whose do not."""
    agreed = 0
    for name, ids in prompts.items():
        count = min(max_new_tokens, generator.config.max_sequence_length - len(ids))
        (ours,) = generator.generate([ids], max_new_tokens=count)
        theirs = greedy_hf(model, ids, count, generator.stop_ids)
        length = next((n for n, (a, b) in enumerate(zip(ours.ids, theirs, strict=False)) if a != b), None)
        if length is not None or len(ours.ids) != len(theirs):
            place = min(len(ours.ids), len(theirs)) if length is None else length
            return agreed + place, [f"greedy tokens after the {name} prompt differ from token {place} on"]
        agreed += len(theirs)
    return agreed, []


def greedy_hf(model: Any, ids: Sequence[int], max_new_tokens: int, stop_ids: frozenset[int]) -> list[int]:
    """What transformers generates after `ids`, without the end token."""
    prompt = torch.tensor([ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=0,
    )
    new = output[0, len(ids) :].tolist()
    return new[:-1] if new and new[-1] in stop_ids else new
