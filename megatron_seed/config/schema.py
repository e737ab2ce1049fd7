"""Every setting of a training run, documented where it is declared. Unknown keys are refused (see `load`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    """A Llama-3-shaped decoder: RMSNorm, SwiGLU, rotary positions, grouped-query attention, no biases."""

    num_layers: Positive
    hidden_size: Positive
    ffn_hidden_size: Positive
    """Width of the gate and of the up projection."""
    num_attention_heads: Positive
    num_query_groups: Positive
    """Key/value heads."""
    head_dim: Positive
    vocab_size: Positive
    """Token ids the tokenizer can give."""
    vocab_multiple: Positive = 128
    """Embedding rows are padded up to a multiple of this, whatever the layout; export trims them again."""
    max_sequence_length: Positive = 8192
    rotary_base: float = 500_000.0
    norm_epsilon: float = 1e-6
    init_std: float = 0.0099
    tied_embeddings: bool = False

    @model_validator(mode="after")
    def _heads_form_groups(self) -> ModelConfig:
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_query_groups {self.num_query_groups}"
            )
        return self

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head; the loss never sees those from vocab_size on."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


class LayoutConfig(Section):
    """How the model and the batch are spread over processes; data parallelism takes what is left."""

    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    sequence_parallel: bool = False
    """Split activations outside the tensor-parallel regions along the sequence."""
    distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks."""

    @property
    def model_parallel_size(self) -> int:
        """Processes that hold one copy of the model."""
        return self.tensor_parallel * self.pipeline_parallel


class LearningRate(Section):
    """Rate as a function of the tokens consumed in the phase; never stored in a checkpoint."""

    schedule: Literal["constant", "cosine", "warmup_stable_decay", "linear", "inverse_square_root"] = "constant"
    peak: Annotated[float, Field(gt=0)]
    minimum: Annotated[float, Field(ge=0)] = 0.0
    """Rate at the end of the phase (cosine, linear, warmup_stable_decay) and floor of inverse_square_root."""
    warmup_tokens: Annotated[int, Field(ge=0)] = 0
    """Linear from zero."""
    decay_tokens: Annotated[int, Field(ge=0)] = 0
    """Length of the final decay of warmup_stable_decay."""

    @model_validator(mode="after")
    def _minimum_below_peak(self) -> LearningRate:
        if self.minimum > self.peak:
            raise ValueError(f"minimum {self.minimum} is above peak {self.peak}")
        return self


class SourceConfig(Section):
    """One data source of a blend."""

    name: str
    builds: tuple[str, ...] = Field(min_length=1)
    """Prefixes of `.bin/.idx` builds; epoch e of the source reads builds[e % len(builds)]."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of tokens, relative to the other sources."""

    @field_validator("builds", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class PhaseConfig(Section):
    """A stretch of training. Phases alone decide rate, mixture, context and batch."""

    name: str
    tokens: Positive
    """Budget; the last step is the first that reaches it."""
    learning_rate: LearningRate
    blend: tuple[SourceConfig, ...] = Field(min_length=1)
    sequence_length: Positive
    global_batch_size: Positive
    """Sequences per optimizer step."""
    micro_batch_size: Positive = 1
    """Sequences per forward pass and data-parallel rank."""
    shuffle_block: Positive = 1024
    """Sequences of a source that are shuffled together, so that neighbours in a long document do not share a batch."""
    fim: Fraction | None = None
    """Fill-in-the-middle rate that the builds must have; None accepts any."""

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _number_is_constant(cls, value: Any) -> Any:
        return {"peak": value} if isinstance(value, int | float) else value

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the phase."""
        return math.ceil(self.tokens / self.tokens_per_step)


class OptimizerConfig(Section):
    """AdamW. Betas, epsilon and weight decay are ours: the report gives none."""

    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Not applied to norms (one-dimensional parameters)."""
    clip_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Global norm; 0 turns clipping off."""


class EvaluationConfig(Section):
    """Held-out loss, on plain builds that no phase trains on."""

    held_out: tuple[SourceConfig, ...] = ()
    every_steps: Positive = 500
    max_sequences: Positive = 256
    """Per source, taken evenly over the build; the same ones each time."""
    micro_batch_size: Positive = 4


class CheckpointConfig(Section):
    every_steps: Positive = 500
    keep_last: Positive = 3


class LoggingConfig(Section):
    every_steps: Positive = 1
    tensorboard: bool = True
    wandb: Literal["offline", "online", "off"] = "offline"
    wandb_project: str = "megatron-seed"


class Recipe(Section):
    """A whole run."""

    name: str
    run_dir: Path
    seed: Annotated[int, Field(ge=0)] = 1234
    model: ModelConfig
    tokenizer: Path | None = None
    """Directory of the tokenizer that made the builds; copied into every checkpoint and export."""
    precision: Literal["fp32", "bf16"] = "bf16"
    layout: LayoutConfig = LayoutConfig()
    phases: tuple[PhaseConfig, ...] = Field(min_length=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Recipe:
        for what, names in (
            ("phase", [phase.name for phase in self.phases]),
            ("held-out source", [source.name for source in self.evaluation.held_out]),
            *((f"source of phase {p.name}", [source.name for source in p.blend]) for p in self.phases),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what} named twice: {', '.join(sorted(twice))}")
        return self
