"""Is a Hugging Face directory the same model as a checkpoint? Its tensors bit by bit, then what both models compute."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from megatron_seed.checkpoint.manifest import NAME, find_damage
from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.schema import ModelConfig
from megatron_seed.generate import Generator
from megatron_seed.hf.architectures import architecture_of, read_hf_config, to_model_config
from megatron_seed.hf.slices import check_tensors, hf_shapes, hf_sources, tracked
from megatron_seed.hf.special import (
    GENERATION_CONFIG,
    generation_config,
    load_tokenizer,
    read_generation_config,
    read_special_ids,
)
from megatron_seed.hf.weights import HfWeights
from tokenizer.encode import Encoder

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
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
    problems = [*_damage(checkpoint), *_config_problems(checkpoint, hf, config), *_tokenizer_problems(checkpoint, hf)]
    problems += _name_problems(weights, config)
    dtype = next(iter(weights.dtypes.values()), torch.float32)
    report = VerifyReport(str(dtype).removeprefix("torch."), 0, problems=tuple(problems))
    if not problems:
        compared, differing = _compare_tensors(reader, weights, config, dtype, progress)
        report = replace(report, tensors=compared, problems=tuple(differing))
    if report.problems:
        return report
    with Generator.load(checkpoint, precision="fp32", weights_as=dtype) as generator:
        ours = _compute(generator, dict(_prompts(generator, hf, random_tokens, seed)), max_new_tokens)
    del generator
    return _compare_models(report, ours, hf, tolerance, bf16_tolerance)


@dataclass(frozen=True)
class _Computed:
    """What the training model made of each prompt."""

    prompts: Mapping[str, list[int]]
    logits: Mapping[str, torch.Tensor]
    """[1, seq, vocab_size], fp32."""
    greedy: Mapping[str, tuple[int, ...]]
    max_new_tokens: Mapping[str, int]
    stop_ids: frozenset[int]


def _compute(generator: Generator, prompts: Mapping[str, list[int]], max_new_tokens: int) -> _Computed:
    room = generator.config.max_sequence_length
    counts = {name: min(max_new_tokens, room - len(ids)) for name, ids in prompts.items()}
    return _Computed(
        prompts=prompts,
        logits={name: generator.logits(torch.tensor([ids])).cpu() for name, ids in prompts.items()},
        greedy={name: generator.generate([ids], max_new_tokens=counts[name])[0].ids for name, ids in prompts.items()},
        max_new_tokens=counts,
        stop_ids=generator.stop_ids,
    )


def _compare_models(
    report: VerifyReport, ours: _Computed, hf: Path, tolerance: float, bf16_tolerance: float
) -> VerifyReport:
    """One model in memory at a time."""
    model = _load(hf, torch.float32)
    differences = {name: _difference(ours.logits[name], _logits(model, ids)) for name, ids in ours.prompts.items()}
    tokens, differing = _compare_greedy(ours, model)
    del model
    model = _load(hf, torch.bfloat16)
    divergences = {name: _divergence(ours.logits[name], _logits(model, ids)) for name, ids in ours.prompts.items()}
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
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    with _no_bars():
        return AutoModelForCausalLM.from_pretrained(hf, dtype=dtype, **options)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Progress on the terminal is ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _damage(checkpoint: Path) -> list[str]:
    """Files that are not as they were saved: a changed bit would be in the export too. Nothing without a manifest."""
    damage = find_damage(checkpoint) if (checkpoint / NAME).is_file() else None
    return [f"the checkpoint is damaged: {damage}"] if damage else []


def _config_problems(checkpoint: Path, hf: Path, config: ModelConfig) -> list[str]:
    architecture, hf_config = read_hf_config(hf / "config.json")
    special = asdict(read_special_ids(checkpoint, config))
    ours = config.model_dump() | {f"{role}_token_id": token for role, token in special.items()}
    theirs = to_model_config(architecture, hf_config, config.vocab_multiple).model_dump()
    theirs |= {f"{role}_token_id": getattr(hf_config, f"{role}_token_id") for role in special}
    problems = [
        f"config.json: {name} {theirs[name]}, the checkpoint has {value}"
        for name, value in ours.items()
        if theirs[name] != value
    ]
    if not problems and _settings(generation_config(checkpoint, hf_config)) != _settings(
        read_generation_config(hf) or GenerationConfig.from_model_config(hf_config)
    ):
        problems.append(f"{hf / GENERATION_CONFIG} is not the checkpoint's")
    return problems


def _settings(generation: GenerationConfig) -> dict[str, Any]:
    """What it says of generating: not where it comes from or who wrote it."""
    said = generation.to_diff_dict()
    return {name: value for name, value in said.items() if name[0] != "_" and name != "transformers_version"}


def _tokenizer_problems(checkpoint: Path, hf: Path) -> list[str]:
    ours = load_tokenizer(checkpoint)
    if ours is None:
        return []
    if not (hf / "tokenizer.json").is_file():
        return [f"{hf}: no tokenizer.json, though the checkpoint carries a tokenizer"]
    if Encoder.load(hf).digest != ours.digest:
        return [f"{hf / 'tokenizer.json'} is not the checkpoint's tokenizer"]
    same = _chat_templates(hf) == _chat_templates(checkpoint / "tokenizer")
    return [] if same else [f"{hf}: the chat template is not the checkpoint's"]


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
        bits = _BITS[dtype.itemsize]
        count = int((ours.view(bits) != theirs.view(bits)).sum())
        if count:
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


def _chat_templates(directory: Path) -> dict[str, Any]:
    """By file name, in whichever of both places they stand."""
    files = [directory / "chat_template.jinja", *directory.glob("additional_chat_templates/*.jinja")]
    found = {path.name: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    settings = directory / "tokenizer_config.json"
    if not found and settings.is_file():
        within = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        return {"chat_template.jinja": within} if within else {}
    return found


@torch.no_grad()
def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits.float()


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    one, other = ours.log_softmax(-1), theirs.log_softmax(-1)
    return float((one.exp() * (one - other)).sum(-1).mean())


def _compare_greedy(computed: _Computed, model: Any) -> tuple[int, list[str]]:
    """How many greedy tokens agree, and the first prompt whose do not."""
    agreed = 0
    for name, ids in computed.prompts.items():
        ours = computed.greedy[name]
        theirs = greedy_hf(model, ids, computed.max_new_tokens[name], computed.stop_ids)
        length = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if length is not None or len(ours) != len(theirs):
            place = min(len(ours), len(theirs)) if length is None else length
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
