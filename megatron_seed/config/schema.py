"""A training run: model, layout, phases, optimizer, and the recipe that holds all settings. Unknown keys are refused
(see `load`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_seed.config.running import (
    CheckpointConfig,
    GuardConfig,
    LoggingConfig,
    ProfileConfig,
    StopConfig,
    WatchdogConfig,
)
from megatron_seed.config.section import Fraction, Name, Positive, PositiveFloat, Section
from megatron_seed.config.sources import EvaluationConfig, SourceConfig


class LinearRope(Section):
    """Positions divided by a factor (Chen et al., 2023)."""

    kind: Literal["linear"]
    factor: Annotated[float, Field(ge=1)]


class Llama3Rope(Section):
    """Slow rotations made slower by a factor, fast ones left, those between blended (Llama 3.1)."""

    kind: Literal["llama3"]
    factor: Annotated[float, Field(ge=1)]
    low_frequency_factor: Annotated[float, Field(gt=0)]
    """Wavelengths above original_max_sequence_length over this are divided by the factor whole."""
    high_frequency_factor: Annotated[float, Field(gt=0)]
    """Wavelengths below original_max_sequence_length over this stay as they are."""
    original_max_sequence_length: Positive

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Llama3Rope:
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError("low_frequency_factor must be below high_frequency_factor")
        return self


class YarnRope(Section):
    """Slow rotations made slower by a factor, fast ones left, and sharper attention (Peng et al., 2023)."""

    kind: Literal["yarn"]
    factor: Annotated[float, Field(ge=1)]
    original_max_sequence_length: Positive
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    """Pairs that turn more often than this within the original length stay as they are."""
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    """Pairs that turn less often than this are divided by the factor whole."""
    attention_factor: Annotated[float, Field(gt=0)] | None = None
    """Of queries and of keys; None is 0.1 ln(factor) + 1."""


RopeScaling = Annotated[LinearRope | Llama3Rope | YarnRope, Field(discriminator="kind")]


class ModelConfig(Section):
    """A decoder of the Llama family: RMSNorm, SwiGLU, rotary positions, grouped-query attention.

    The defaults are Llama's. Qwen2 is one with `qkv_bias`, Qwen3 one with `qk_norm`.
    """

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
    rotary_base: PositiveFloat = 500_000.0
    rope_scaling: RopeScaling | None = None
    """How a model's context was made longer than it was first trained with."""
    qkv_bias: bool = False
    """Queries, keys and values have biases."""
    qk_norm: bool = False
    """RMSNorm over each head of queries and of keys, before rotary positions."""
    norm_epsilon: PositiveFloat = 1e-6
    init_std: PositiveFloat = 0.0099
    tied_embeddings: bool = False
    head: Literal["next_token", "score"] = "next_token"
    """What the model says after each token: logits of the next one, or one number, such as a file's quality. A score
    model trains on files with scores (see `megatron_seed.data.scored`); its loss is the squared error."""

    @model_validator(mode="after")
    def _heads_form_groups(self) -> ModelConfig:
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_query_groups {self.num_query_groups}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions turn pairs")
        return self

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head; the loss never sees those from vocab_size on."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


class LayoutConfig(Section):
    """How the model and the batch are spread over processes; data parallelism takes what is left."""

    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    virtual_pipeline: Positive = 1
    """Chunks of layers that each pipeline stage holds (interleaved schedule); 1 is not interleaved."""
    context_parallel: Positive = 1
    """Split each sequence over this many processes."""
    sequence_parallel: bool = False
    """Split activations outside the tensor-parallel regions along the sequence."""
    distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass already runs; needs distributed_optimizer."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: those of attention, or all but each layer's input."""

    @property
    def model_parallel_size(self) -> int:
        """Processes that work on one sequence."""
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel


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

    @property
    def depends_on_budget(self) -> bool:
        """The rate at a token is another one when the phase is longer."""
        return self.schedule in ("cosine", "linear", "warmup_stable_decay")

    @model_validator(mode="after")
    def _minimum_below_peak(self) -> LearningRate:
        if self.minimum > self.peak:
            raise ValueError(f"minimum {self.minimum} is above peak {self.peak}")
        return self


class BatchRamp(Section):
    """Batch size growing in equal steps over the first tokens of a phase (Megatron-LM's ramp-up, counted in tokens)."""

    start: Positive
    """Sequences of the first step."""
    increment: Positive
    tokens: Positive
    """Tokens until the full batch size."""

    def size_at(self, consumed_tokens: int, full: int) -> int:
        stages = (full - self.start) // self.increment
        done = consumed_tokens * stages // self.tokens if stages else 0
        return full if consumed_tokens >= self.tokens else min(full, self.start + done * self.increment)


class PhaseConfig(Section):
    """A stretch of training. Phases alone decide rate, mixture, context and batch."""

    name: Name
    tokens: Positive
    """Budget; the last step is the first that reaches it."""
    learning_rate: LearningRate
    blend: tuple[SourceConfig, ...] = Field(min_length=1)
    """In a recipe file also the path of a file that holds them; see `load_recipe`."""
    sequence_length: Positive
    global_batch_size: Positive
    """Sequences per optimizer step."""
    batch_ramp: BatchRamp | None = None
    """Smaller batches at the beginning of the phase."""
    micro_batch_size: Positive = 1
    """Sequences per forward pass and data-parallel rank."""
    shuffle_block: Positive = 1024
    """Sequences of a source that are shuffled together, so that neighbours in a long document do not share a batch."""
    rotary_base: Annotated[float, Field(gt=0)] | None = None
    """Replaces the model's from this phase on."""
    layout: LayoutConfig | None = None
    """Replaces the recipe's in this phase."""
    document_mask: bool = False
    """Attention stays within a document and positions restart with each."""
    fim: Fraction | None = None
    """Fill-in-the-middle rate that the builds must have; None accepts any."""

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _number_is_constant(cls, value: Any) -> Any:
        return {"peak": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ramp_reaches_the_batch(self) -> PhaseConfig:
        ramp = self.batch_ramp
        if ramp and (ramp.start > self.global_batch_size or (self.global_batch_size - ramp.start) % ramp.increment):
            raise ValueError(
                f"batch_ramp from {ramp.start} by {ramp.increment} does not reach global_batch_size "
                f"{self.global_batch_size}"
            )
        rate = self.learning_rate
        if rate.warmup_tokens + rate.decay_tokens > self.tokens:
            raise ValueError(
                f"warmup_tokens {rate.warmup_tokens} and decay_tokens {rate.decay_tokens} do not fit in {self.tokens}"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """After the ramp."""
        return self.global_batch_size * self.sequence_length

    def batch_size_at(self, consumed_tokens: int) -> int:
        """Sequences of the step that begins with `consumed_tokens` of the phase behind it."""
        if self.batch_ramp is None:
            return self.global_batch_size
        return self.batch_ramp.size_at(consumed_tokens, self.global_batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the phase."""
        return self.steps_after(0)

    def steps_after(self, consumed: int) -> int:
        """Steps that are left with so many tokens of the phase consumed."""
        steps = 0
        while consumed < self.tokens and (size := self.batch_size_at(consumed)) < self.global_batch_size:
            steps, consumed = steps + 1, consumed + size * self.sequence_length
        return steps + math.ceil(max(0, self.tokens - consumed) / self.tokens_per_step)


class OptimizerConfig(Section):
    """AdamW. Betas, epsilon and weight decay are ours: the report gives none."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Not applied to norms (one-dimensional parameters)."""
    clip_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Global norm; 0 turns clipping off."""


class StartFrom(Section):
    """Where a branched run begins."""

    checkpoint: Path
    """A checkpoint folder."""
    load: Literal["everything", "weights", "backbone"] = "everything"
    """`weights` leaves optimizer state, step and tokens behind, `backbone` also the head, which begins anew."""
    cursors: Literal["inherited", "fresh"] = "inherited"
    """Whether sources go on where the parent left them; `weights` with `inherited` keeps the cursors only."""


class Recipe(Section):
    """A whole run."""

    name: Name
    run_dir: Path
    seed: Annotated[int, Field(ge=0)] = 1234
    model: ModelConfig
    index_cache: Path | None = None
    """Folder for the document orders of large builds, shared by runs on the same data; default: in the run folder."""
    tokenizer: Path | None = None
    """Directory of the tokenizer that made the builds; copied into every checkpoint and export."""
    precision: Literal["fp32", "bf16"] = "bf16"
    fp8: Literal["off", "current", "delayed"] = "off"
    """Matrix products in FP8 with this scaling; needs TransformerEngine on Hopper or newer."""
    fused_weight_gradient: bool = False
    """Weight gradients added to their fp32 buffer inside the matrix product."""
    loss_chunk_tokens: Annotated[int, Field(ge=0)] = 0
    """Compute head and loss for so many tokens at a time, never all logits at once; 0 computes them together."""
    deterministic: bool = False
    """Refuse kernels whose result depends on timing, so that a repeated run is bit-equal."""
    start_from: StartFrom | None = None
    """Begin with another run's checkpoint (`from=RUN@STEP` on the command line)."""
    layout: LayoutConfig = LayoutConfig()
    phases: tuple[PhaseConfig, ...] = Field(min_length=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    stop: StopConfig = StopConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    profile: ProfileConfig = ProfileConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def order_cache(self) -> Path:
        return self.index_cache or self.run_dir / "index"

    def layout_of(self, phase: PhaseConfig) -> LayoutConfig:
        return phase.layout or self.layout

    def model_of(self, phase: PhaseConfig) -> ModelConfig:
        """The model with what phases up to this one have changed of it."""
        bases = [p.rotary_base for p in self.phases[: self.phases.index(phase) + 1] if p.rotary_base]
        return self.model.model_copy(update={"rotary_base": bases[-1]}) if bases else self.model

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
