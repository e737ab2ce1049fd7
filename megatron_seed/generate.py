"""Text from a checkpoint, with a key-value cache: greedy or sampled, many prompts at once, plain or infilling."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import Progress

from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config
from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.special import load_tokenizer, read_stop_ids
from megatron_seed.runtime import device
from megatron_seed.runtime.groups import process_groups
from tokenizer.encode import Encoder

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Completion:
    """What followed one prompt."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """New tokens, without the one that ended them."""
    text: str | None
    """Of the new tokens; None without a tokenizer."""
    stopped: bool
    """An end token came; otherwise max_new_tokens were reached."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Sample from the smallest set of likeliest tokens that holds this probability."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SeedError(f"max_new_tokens {self.max_new_tokens} is not positive")
        if self.temperature < 0:
            raise SeedError(f"temperature {self.temperature} is negative")
        if not 0 < self.top_p <= 1:
            raise SeedError(f"top_p {self.top_p} is not above 0 and at most 1")


class Generator:
    """A loaded model that continues prompts. Close it, or use it in a `with` block, to leave its process group."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: ModelConfig,
        encoder: Encoder | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.encoder = encoder
        self.stop_ids = frozenset(stop_ids)
        self._resources = contextlib.ExitStack()

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        *,
        precision: Literal["fp32", "bf16"] | None = None,
        weights_as: torch.dtype | None = None,
    ) -> Generator:
        """Build the model on this process's device and read its weights, whatever layout they were written from.

        `precision` None is bf16 on a GPU and fp32 on a CPU. `weights_as` rounds the weights to a dtype first, as an
        export does. Process groups are made if there are none. Raises SeedError for what is not a checkpoint of ours.
        """
        checkpoint = Path(checkpoint)
        reader, config = CheckpointReader(checkpoint), read_model_config(checkpoint)
        if config.head == "score":
            raise SeedError(f"{checkpoint}: a score model writes no text; `data score apply` uses it")
        stop_ids = read_stop_ids(checkpoint, config)
        with contextlib.ExitStack() as resources:
            if not torch.distributed.is_initialized():
                resources.enter_context(process_groups(LayoutConfig(), seed=0))
            # Binds `torch` in megatron-core where there is no GPU: not before the process group is there.
            from megatron_seed.model.build import build_model

            chunks = build_model(config, LayoutConfig(), precision or ("bf16" if device.has_gpu() else "fp32"))
            load_weights(chunks[0], reader, weights_as)
            generator = cls(chunks[0], config, load_tokenizer(checkpoint), stop_ids)
            generator._resources = resources.pop_all()
            return generator

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_batch_size: int = 32,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Continue every prompt (text, or token ids) until an end token or `max_new_tokens`.

        A sample depends on the seed, the prompt and how often that prompt stood before it in the list, not on the other
        prompts. Raises SeedError for a prompt that is empty, does not fit the context or has ids out of the vocabulary.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        ids = [self._prompt_ids(prompt, number, max_new_tokens) for number, prompt in enumerate(prompts)]
        keys = _sample_keys(ids, seed)
        task = progress.add_task("generate", total=len(ids)) if progress else None
        completions = []
        for start in range(0, len(ids), max_batch_size):
            stop = start + max_batch_size
            completions += self._batch(ids[start:stop], keys[start:stop], sampling)
            if progress:
                progress.update(task, completed=len(completions))
        return completions

    def infill(self, gaps: Sequence[tuple[str, str]], **options: Any) -> list[Completion]:
        """Fill in between each (prefix, suffix); options as for `generate`."""
        return self.generate([self.infilling_prompt(prefix, suffix) for prefix, suffix in gaps], **options)

    def infilling_prompt(self, prefix: str, suffix: str) -> list[int]:
        """Suffix-prefix-middle, as in training: the middle is what comes next. TokenizerError without the markers."""
        encoder = self._require_encoder()
        suffix_id, prefix_id, middle_id = encoder.special.require("fim_suffix", "fim_prefix", "fim_middle")
        return [suffix_id, *encoder.encode(suffix), prefix_id, *encoder.encode(prefix), middle_id]

    @torch.no_grad()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Next-token logits after every token, without a cache. ids: [batch, seq]; fp32 [batch, seq, vocab_size]."""
        ids = ids.to(self._device)
        positions = torch.arange(ids.shape[1], device=self._device).expand_as(ids)
        logits = self.model(input_ids=ids, position_ids=positions, attention_mask=None, runtime_gather_output=True)
        return logits[..., : self.config.vocab_size].float()

    @torch.no_grad()
    def _batch(self, prompts: list[list[int]], keys: list[bytes], sampling: Sampling) -> list[Completion]:
        """The whole batch stands at one position: prompts longer than the shortest are fed token by token."""
        from megatron.core.inference.contexts import StaticInferenceContext

        lengths = [len(prompt) for prompt in prompts]
        ends = [length + sampling.max_new_tokens for length in lengths]
        tokens = torch.zeros(len(prompts), max(ends), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        context = StaticInferenceContext(len(prompts), max(ends))
        first, position = 0, min(lengths)
        stopped = [False] * len(prompts)
        while True:
            logits = self._step(tokens[:, first:position], context)
            chosen = _choose(logits, keys, position, sampling)
            for row, length in enumerate(lengths):
                if length <= position < ends[row]:
                    tokens[row, position] = chosen[row]
                    if int(chosen[row]) in self.stop_ids:
                        stopped[row], ends[row] = True, position
            first, position = position, position + 1
            if position >= max(ends):
                break
        rows = zip(prompts, tokens.tolist(), lengths, ends, stopped, strict=True)
        return [self._completion(prompt, row[length:end], stop) for prompt, row, length, end, stop in rows]

    def _step(self, ids: torch.Tensor, context: Any) -> torch.Tensor:
        """Append ids [batch, new] to the cache; logits after the last of them [batch, vocab_size], fp32 on the CPU."""
        start = context.sequence_len_offset
        positions = torch.arange(start, start + ids.shape[1], device=self._device).expand_as(ids)
        if start:
            context.enable_decode_mode()
        logits = self.model(
            input_ids=ids.to(self._device),
            position_ids=positions,
            attention_mask=None,
            inference_context=context,
            runtime_gather_output=True,
        )
        context.increment_sequence_len_offset(ids.shape[1])
        return logits[:, -1, : self.config.vocab_size].float().cpu()

    def _completion(self, prompt: list[int], ids: list[int], stopped: bool) -> Completion:
        text = self.encoder.decode(ids) if self.encoder else None
        return Completion(prompt_ids=tuple(prompt), ids=tuple(ids), text=text, stopped=stopped)

    def _prompt_ids(self, prompt: Prompt, number: int, max_new_tokens: int) -> list[int]:
        ids = self._require_encoder().encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        if not ids:
            raise SeedError(f"prompt {number} is empty: give at least one token")
        outside = [token for token in ids if not 0 <= token < self.config.vocab_size]
        if outside:
            raise SeedError(f"prompt {number}: token {outside[0]} is not below vocab_size {self.config.vocab_size}")
        if len(ids) + max_new_tokens > self.config.max_sequence_length:
            raise SeedError(
                f"prompt {number}: {len(ids)} tokens and {max_new_tokens} new ones do not fit the model's "
                f"{self.config.max_sequence_length}"
            )
        return ids

    def _require_encoder(self) -> Encoder:
        if self.encoder is None:
            raise SeedError("the checkpoint carries no tokenizer: give prompts as token ids")
        return self.encoder

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


@torch.no_grad()
def load_weights(model: torch.nn.Module, reader: CheckpointReader, dtype: torch.dtype | None = None) -> None:
    """Fill a megatron-core model from a checkpoint of any layout, executing none of it.

    The model says itself which slice of which checkpoint tensor each of its parameters is. `dtype` rounds the weights
    on their way. Raises SeedError for a tensor that is missing or of another shape.
    """
    for part in _sharded_tensors(model):
        info = reader.info(part.key)
        if info.shape != tuple(part.global_shape):
            raise SeedError(f"{reader.path}: {part.key} is {list(info.shape)}, the model has {list(part.global_shape)}")
        sizes = (*(1,) * part.prepend_axis_num, *part.local_shape)
        data = reader.read_slice(part.key, part.global_offset, sizes).reshape(part.data.shape)
        part.data.copy_(data if dtype is None else data.to(dtype))


def _sharded_tensors(model: torch.nn.Module) -> Iterator[Any]:
    """megatron-core's descriptions of all parameters; their `data` are views of the parameters."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    state = model.sharded_state_dict(metadata={"singleton_local_shards": False})
    apply_factories(state)
    return (value for value in nested_values(state) if isinstance(value, ShardedTensor))


def _sample_keys(prompts: Sequence[Sequence[int]], seed: int) -> list[bytes]:
    """One key for each sample: of the seed, the prompt, and its number among equal prompts."""
    seen: Counter[tuple[int, ...]] = Counter()
    keys = []
    for prompt in map(tuple, prompts):
        digest = hashlib.blake2b(np.asarray(prompt, dtype="<i8").tobytes(), digest_size=16).hexdigest()
        keys.append(f"{seed}:{digest}:{seen[prompt]}".encode())
        seen[prompt] += 1
    return keys


def _choose(logits: torch.Tensor, keys: Sequence[bytes], position: int, sampling: Sampling) -> torch.Tensor:
    """The next token of each row. logits: [batch, vocab_size]; gives [batch]."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, order = (logits.double() / sampling.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    cumulative = probabilities.cumsum(dim=-1)
    kept = probabilities.where(cumulative - probabilities < sampling.top_p, 0.0).cumsum(dim=-1)
    draws = torch.tensor([[_uniform(key, position)] for key in keys], dtype=torch.float64) * kept[:, -1:]
    places = torch.searchsorted(kept, draws, right=True)
    return order.gather(-1, places.clamp(max=logits.shape[-1] - 1)).squeeze(-1)


def _uniform(key: bytes, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments."""
    digest = hashlib.blake2b(position.to_bytes(8, "little"), key=hashlib.sha256(key).digest(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
