"""Memory of one rank by kind, at the moment of a step when it holds most."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_seed.config.schema import LayoutConfig, ModelConfig, PhaseConfig, Recipe
from megatron_seed.model.arithmetic import layer_parameter_count
from megatron_seed.plan.activations import (
    FP32,
    GPU_KERNELS,
    Kernels,
    Parts,
    Work,
    allocator_held,
    head_kept,
    head_working,
    layer_kept,
    layer_working,
)
from megatron_seed.plan.hardware import Assumptions

# Packing buffers of MKL and oneDNN, threads, autograd: measured as what a CPU step holds beside all of its tensors.
CPU_LIBRARIES_BYTES = 60e6


@dataclass(frozen=True)
class RankMemory:
    """One rank of a pipeline stage at its fullest; bytes."""

    stage: int
    moment: str
    parameters: float
    gradients: float
    optimizer: float
    activations: Parts
    """Kept for the backward pass, by part."""
    working: float
    """Needed for a while only: gradients on their way, logits, recomputed layers."""
    communication: float
    checkpoint_copy: float
    """Of a save that goes on beside training; in the machine's memory where training is on a GPU, and then not here."""
    allocator: float
    """Held by the allocator without being used."""
    framework: float

    @property
    def total(self) -> float:
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, float]:
        """Bytes of each kind, activations in one sum."""
        return {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": sum(self.activations.values()),
            "working": self.working,
            "communication": self.communication,
            "checkpoint copy": self.checkpoint_copy,
            "allocator": self.allocator,
            "framework": self.framework,
        }


def stage_parameters(model: ModelConfig, layout: LayoutConfig, stage: int) -> float:
    """Parameters of one rank of a pipeline stage, with the vocabulary's padding."""
    tensor, last = layout.tensor_parallel, layout.pipeline_parallel - 1
    hidden = model.hidden_size
    norms = 2 * hidden + (2 * model.head_dim if model.qk_norm else 0)
    layer = (layer_parameter_count(model) - norms) / tensor + norms
    found = model.num_layers / layout.pipeline_parallel * layer
    table = model.padded_vocab_size * hidden / tensor
    found += table if stage == 0 else 0
    if stage == last:
        head = hidden + 1 if model.head == "score" else 0 if model.tied_embeddings and stage == 0 else table
        found += hidden + head
    return found


def micro_batches_kept(layout: LayoutConfig, micro_batches: int, stage: int) -> float:
    """Micro-batches of which a stage holds activations at its fullest (1F1B; interleaved: Narayanan et al., 2021)."""
    stages, virtual = layout.pipeline_parallel, layout.virtual_pipeline
    if stages == 1:
        return 1.0
    if virtual == 1:
        return min(micro_batches, stages - stage)
    warm_up = 2 * (stages - stage - 1) + (virtual - 1) * stages
    return min(micro_batches * virtual, warm_up + 1) / virtual


def memory_of_stage(
    recipe: Recipe,
    phase: PhaseConfig,
    layout: LayoutConfig,
    replicas: int,
    stage: int,
    assumptions: Assumptions,
    kernels: Kernels = GPU_KERNELS,
) -> RankMemory:
    """The fullest moment of a rank of `stage`, among: loss and head, backward pass of a layer, update."""
    work = Work.of(recipe, phase, layout, kernels)
    micro_batches = phase.global_batch_size // (phase.micro_batch_size * replicas)
    kept = micro_batches_kept(layout, micro_batches, stage)
    layers = recipe.model.num_layers / layout.pipeline_parallel
    activations = {name: size * layers * kept for name, size in layer_kept(work).items()}
    if layout.pipeline_parallel > 1:
        # The result that was sent on is held until its gradient comes back.
        activations["sent to the next stage"] = work.stream * kept * layout.virtual_pipeline
    held = allocator_held(work, layers * kept, micro_batches)
    static = _static(recipe, layout, replicas, stage, assumptions, kernels)
    moments = [
        RankMemory(stage, "backward pass of a layer", **static, activations=activations, working=layer_working(work),
                   communication=0.0, allocator=held),
        RankMemory(stage, "update", **static, activations={}, working=0.0, allocator=0.0,
                   communication=_update_communication(recipe, layout, replicas, stage, kernels)),
    ]  # fmt: skip
    if stage == layout.pipeline_parallel - 1:
        with_head = dict(activations)
        for name, size in head_kept(work).items():
            with_head[name] = with_head.get(name, 0.0) + size
        moments.append(
            RankMemory(stage, "loss and head", **static, activations=with_head, working=head_working(work),
                       communication=0.0, allocator=held)
        )  # fmt: skip
    return max(moments, key=lambda moment: moment.total)


def memory_per_stage(
    recipe: Recipe,
    phase: PhaseConfig,
    layout: LayoutConfig,
    replicas: int,
    assumptions: Assumptions,
    kernels: Kernels = GPU_KERNELS,
) -> list[RankMemory]:
    """Every pipeline stage's; they differ in activations held and in embedding and head."""
    stages = range(layout.pipeline_parallel)
    return [memory_of_stage(recipe, phase, layout, replicas, stage, assumptions, kernels) for stage in stages]


def checkpoint_bytes(recipe: Recipe) -> float:
    """Most that a checkpoint takes: parameters as they train, and their fp32 copies with both moments; with padding.
    In fp32 without replicas the two are one, and it is a quarter less."""
    whole = stage_parameters(recipe.model, LayoutConfig(), 0)
    return whole * ((2 if recipe.precision == "bf16" else FP32) + 3 * FP32)


def _static(
    recipe: Recipe, layout: LayoutConfig, replicas: int, stage: int, assumptions: Assumptions, kernels: Kernels
) -> dict[str, float]:
    """What is held from the first step to the last."""
    parameters = stage_parameters(recipe.model, layout, stage)
    element = 2 if recipe.precision == "bf16" else FP32
    # Moments, and in bf16 the fp32 parameters that are updated; in fp32 the parameters themselves are.
    state = (3 if recipe.precision == "bf16" else 2) * FP32 * parameters
    if layout.distributed_optimizer:
        state /= replicas * layout.context_parallel
    # FP8 copies of the layers' weights, as they are and transposed, are kept over the micro-batches of a step.
    layers = recipe.model.num_layers / layout.pipeline_parallel * layer_parameter_count(recipe.model)
    copies = 2 * layers / layout.tensor_parallel if recipe.fp8 != "off" else 0.0
    on_cpu = kernels.device == "cpu"
    world = layout.model_parallel_size * replicas
    saves = recipe.checkpoint.asynchronous and on_cpu
    return {
        "parameters": element * parameters + copies,
        "gradients": FP32 * parameters,
        "optimizer": state,
        "checkpoint_copy": checkpoint_bytes(recipe) / world if saves else 0.0,
        "framework": CPU_LIBRARIES_BYTES if on_cpu else _gpu_framework(layout, replicas, assumptions),
    }


def _gpu_framework(layout: LayoutConfig, replicas: int, assumptions: Assumptions) -> float:
    sizes = (layout.tensor_parallel, layout.pipeline_parallel, layout.context_parallel, replicas)
    return assumptions.cuda_context_bytes + assumptions.communicator_bytes * sum(size > 1 for size in sizes)


def _update_communication(recipe: Recipe, layout: LayoutConfig, replicas: int, stage: int, kernels: Kernels) -> float:
    """NCCL works in the gradients' own buffers; gloo reduces a copy of them."""
    if kernels.device == "gpu" or replicas * layout.context_parallel == 1:
        return 0.0
    return FP32 * stage_parameters(recipe.model, layout, stage)
