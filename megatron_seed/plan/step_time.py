"""How long an optimizer step takes in a layout: a stated model, to compare layouts with, not a measurement.

A micro-batch passes a stage in the time of its matrix products and attention at an efficiency, of its element-wise work
at the memory's rate, of what is computed again, and of the collectives that nothing hides. A step is that for all
micro-batches and the pipeline's bubble, and what of gradients' and parameters' collectives the computing does not hide,
and the update.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_seed.config.schema import LayoutConfig, PhaseConfig, Recipe
from megatron_seed.model.arithmetic import flops_per_token
from megatron_seed.plan.activations import FP32, GPU_KERNELS, Work, head_kept, layer_kept
from megatron_seed.plan.hardware import Assumptions, Gpu
from megatron_seed.plan.memory import stage_parameters


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by cause, on the stage that takes longest."""

    matrices: float
    attention: float
    element_wise: float
    recompute: float
    tensor_parallel: float
    context_parallel: float
    pipeline_sends: float
    bubble: float
    data_parallel: float
    """Reducing gradients and gathering parameters, as far as computing does not hide it."""
    update: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class _MicroBatch:
    """Seconds of one micro-batch on the slowest stage, forward and backward."""

    matrices: float
    attention: float
    element_wise: float
    recompute: float
    tensor_parallel: float
    context_parallel: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def step_time(
    recipe: Recipe, phase: PhaseConfig, layout: LayoutConfig, replicas: int, gpu: Gpu, assumptions: Assumptions
) -> StepTime:
    work = Work.of(recipe, phase, layout, GPU_KERNELS)
    micro_batches = phase.global_batch_size // (phase.micro_batch_size * replicas)
    one = _micro_batch(recipe, phase, layout, work, gpu, assumptions)
    stages, virtual = layout.pipeline_parallel, layout.virtual_pipeline
    bubble = one.total * (stages - 1) / virtual
    data_parallel = _data_parallel(recipe, layout, replicas, one.total, gpu, assumptions)
    return StepTime(
        **{name: seconds * micro_batches for name, seconds in vars(one).items()},
        pipeline_sends=_pipeline_sends(layout, replicas, work, gpu, assumptions) * micro_batches,
        bubble=bubble,
        data_parallel=data_parallel,
        update=_update(recipe, layout, replicas, gpu, assumptions),
    )


def model_flops_utilisation(
    recipe: Recipe, phase: PhaseConfig, gpus: int, step_s: float, gpu: Gpu, *, causal: bool = True
) -> float:
    """Share of the bf16 peak that a step of `step_s` seconds makes of the model's own operations."""
    flops = flops_per_token(recipe.model, phase.sequence_length, causal=causal) * phase.tokens_per_step
    return flops / (step_s * gpus * gpu.flops(recipe.precision, fp8=False))


def _micro_batch(
    recipe: Recipe, phase: PhaseConfig, layout: LayoutConfig, work: Work, gpu: Gpu, assumptions: Assumptions
) -> _MicroBatch:
    layers = recipe.model.num_layers / layout.pipeline_parallel
    matrix_rate = gpu.flops(recipe.precision, recipe.fp8 != "off") * assumptions.matrix_efficiency
    head_rate = gpu.flops(recipe.precision, fp8=False) * assumptions.matrix_efficiency
    attention_rate = gpu.flops(recipe.precision, fp8=False) * assumptions.attention_efficiency
    forward = 2 * work.layer_elements * work.tokens / matrix_rate * layers
    # The causal half of a whole sequence, whatever the documents in it: scores and values, a multiply and an add each.
    length = phase.sequence_length
    attention = 2 * work.queries * length * work.tokens / attention_rate * layers
    # The last stage has the head: logits, computed again where the loss comes in chunks.
    head = (4 if work.loss_chunk_tokens else 3) * 2 * work.rows * work.hidden * work.tokens / head_rate
    moved = sum(layer_kept(work, "none").values()) * layers + sum(head_kept(work).values())
    # What is kept is written and read, in the forward pass and again, with its gradients, in the backward pass.
    moved = 5 * moved + _casts(work) * layers + _embedding_gradient(work)
    element_wise = moved / (gpu.memory_bytes_per_s * assumptions.bandwidth_efficiency)
    sends = _tensor_parallel(layout, work, gpu, assumptions) * layers
    backward_attention = 2.5 * attention  # scores are computed once more (FlashAttention-2, section 3)
    again = {"none": 0.0, "selective": attention, "full": forward + attention + element_wise / 3 + sends / 2}
    return _MicroBatch(
        matrices=3 * forward + head,
        attention=attention + backward_attention,
        element_wise=element_wise,
        recompute=again[layout.recompute],
        tensor_parallel=sends,
        context_parallel=_context_parallel(layout, work, gpu, assumptions, attention, layers),
    )


def _casts(work: Work) -> float:
    """Bytes moved to make FP8 of what a layer's products take: read for the largest, read, written twice."""
    if not work.fp8:
        return 0.0
    inputs = 2 * work.hidden + work.queries + work.ffn
    gradients = work.queries + 2 * work.keys + 2 * work.ffn + 2 * work.hidden
    return (2 * work.element + 2) * (inputs + gradients) * work.tokens


def _embedding_gradient(work: Work) -> float:
    """Bytes moved to add the table's gradient to its buffer: a table of zeros, the tokens' rows, the sum."""
    return (2 * work.element + 2 * FP32) * work.rows * work.hidden


def _tensor_parallel(layout: LayoutConfig, work: Work, gpu: Gpu, assumptions: Assumptions) -> float:
    """Seconds of one layer's exposed collectives.

    Forward: two sums of the hidden states (a gather and a reduce-scatter each with sequence parallelism). Backward:
    those of the column-parallel products run behind weight gradients; with sequence parallelism the two row-parallel
    products gather what comes in, half a sum each.
    """
    size = layout.tensor_parallel
    if size == 1:
        return 0.0
    rate = _rate(size, 1, gpu, assumptions)
    volume = 2 * (size - 1) / size * work.element * work.hidden * work.tokens
    sums, starts = (3, 6) if layout.sequence_parallel else (2, 2)
    return sums * volume / rate + starts * assumptions.collective_latency_s


def _context_parallel(
    layout: LayoutConfig, work: Work, gpu: Gpu, assumptions: Assumptions, attention_s: float, layers: float
) -> float:
    """Keys and values go round a ring while attention computes: what it does not hide, forward and twice backward.

    Our own attention gathers them first and hides nothing.
    """
    size = layout.context_parallel
    if size == 1:
        return 0.0
    rate = _rate(size, layout.tensor_parallel, gpu, assumptions)
    ring = (size - 1) * (2 * work.element * work.keys * work.tokens / rate + assumptions.collective_latency_s) * layers
    if work.own_attention:
        return 3 * ring
    return max(0.0, ring - attention_s) + max(0.0, 2 * ring - 2.5 * attention_s)


def _pipeline_sends(layout: LayoutConfig, replicas: int, work: Work, gpu: Gpu, assumptions: Assumptions) -> float:
    """Seconds per micro-batch; interleaved stages send once per chunk, but behind their computing."""
    if layout.pipeline_parallel == 1:
        return 0.0
    if layout.virtual_pipeline > 1:
        return 2 * layout.virtual_pipeline * assumptions.collective_latency_s
    # Stages are the outermost of the ranks' order: as far apart as all of the rest is long.
    apart = layout.tensor_parallel * layout.context_parallel * replicas
    rate = _rate(2, apart, gpu, assumptions)
    return 2 * (work.stream / rate + assumptions.collective_latency_s)


def _data_parallel(
    recipe: Recipe, layout: LayoutConfig, replicas: int, micro_batch_s: float, gpu: Gpu, assumptions: Assumptions
) -> float:
    size = replicas * layout.context_parallel
    if size == 1:
        return 0.0
    parameters = max(stage_parameters(recipe.model, layout, stage) for stage in (0, layout.pipeline_parallel - 1))
    share = (size - 1) / size / _rate(size, layout.tensor_parallel, gpu, assumptions)
    element = 2 if recipe.precision == "bf16" else 4
    reduce, gather = 4 * parameters * share, element * parameters * share
    if not layout.distributed_optimizer:
        reduce, gather = 2 * reduce, 0.0
    # Gradients are whole with the last micro-batch's backward pass; parameters are needed by the first one's forward.
    if layout.overlap_grad_reduce:
        reduce = max(0.1 * reduce, reduce - micro_batch_s * 2 / 3)
    if layout.overlap_param_gather:
        gather = max(0.1 * gather, gather - micro_batch_s / 3)
    return reduce + gather


def _update(recipe: Recipe, layout: LayoutConfig, replicas: int, gpu: Gpu, assumptions: Assumptions) -> float:
    """Gradients are zeroed, read for their norm, divided and clipped in one pass; the update reads them, moments and
    parameters, writes all but the gradients, and rounds the parameters."""
    parameters = max(stage_parameters(recipe.model, layout, stage) for stage in (0, layout.pipeline_parallel - 1))
    shared = replicas * layout.context_parallel if layout.distributed_optimizer else 1
    # The whole buffer of gradients is zeroed; the rest is done for this rank's share.
    moved = parameters * (4 + (4 + 8 + 28 + 6) / shared)
    return moved / (gpu.memory_bytes_per_s * assumptions.bandwidth_efficiency)


def _rate(size: int, apart: int, gpu: Gpu, assumptions: Assumptions) -> float:
    """Bytes per second of a collective over `size` ranks, each `apart` from the next; NVLink while a node has them."""
    if size * apart <= gpu.gpus_per_node:
        return gpu.nvlink_bytes_per_s * assumptions.nvlink_efficiency
    return gpu.network_bytes_per_s * assumptions.network_efficiency
