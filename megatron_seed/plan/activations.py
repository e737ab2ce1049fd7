"""What one rank keeps of a micro-batch for the backward pass, and what else it needs while computing.

Counted tensor by tensor from what the modules hand to autograd; tests hold it against autograd's own list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_seed.config.schema import LayoutConfig, ModelConfig, PhaseConfig, Recipe

Device = Literal["gpu", "cpu"]
Parts = dict[str, float]
FP32 = 4


@dataclass(frozen=True)
class Kernels:
    """The modules that compute, as `model.spec` and `transformer_config` choose them: what each keeps differs."""

    transformer_engine: bool
    device: Device

    @property
    def fused(self) -> bool:
        """SwiGLU is one kernel and keeps no intermediate; so is a norm, which then keeps its input as it came."""
        return self.device == "gpu"


GPU_KERNELS = Kernels(transformer_engine=True, device="gpu")
CPU_KERNELS = Kernels(transformer_engine=False, device="cpu")


@dataclass(frozen=True)
class Work:
    """One rank's part of one micro-batch. Widths are this rank's, sizes in elements."""

    element: int
    """Bytes of an activation."""
    tokens: float
    """Of the sequences' part that this rank has."""
    outer_tokens: float
    """The same outside of the tensor-parallel regions, where sequence parallelism splits them."""
    hidden: int
    head_dim: int
    queries: float
    keys: float
    """Width of keys, and of values."""
    heads: float
    ffn: float
    rows: float
    """Of the vocabulary."""
    context: int
    recompute: str
    head_norms: bool
    """Queries and keys have norms of their own."""
    segments: bool
    """Attention is computed in pieces, whose results are joined: documents, or parts of the sequence."""
    own_attention: bool
    """Its core is ours whatever the kernels: documents are split over ranks."""
    loss_chunk_tokens: int
    fused_weight_gradient: bool
    fp8: bool
    kernels: Kernels

    @classmethod
    def of(cls, recipe: Recipe, phase: PhaseConfig, layout: LayoutConfig, kernels: Kernels) -> Work:
        model: ModelConfig = recipe.model
        tensor = layout.tensor_parallel
        tokens = phase.micro_batch_size * phase.sequence_length / layout.context_parallel
        return cls(
            element=2 if recipe.precision == "bf16" else FP32,
            tokens=tokens,
            outer_tokens=tokens / tensor if layout.sequence_parallel else tokens,
            hidden=model.hidden_size,
            head_dim=model.head_dim,
            queries=model.num_attention_heads * model.head_dim / tensor,
            keys=model.num_query_groups * model.head_dim / tensor,
            heads=model.num_attention_heads / tensor,
            ffn=model.ffn_hidden_size / tensor,
            rows=model.padded_vocab_size / tensor,
            context=layout.context_parallel,
            recompute=layout.recompute,
            head_norms=model.qk_norm,
            segments=phase.document_mask or layout.context_parallel > 1,
            own_attention=phase.document_mask and layout.context_parallel > 1,
            loss_chunk_tokens=recipe.loss_chunk_tokens,
            fused_weight_gradient=recipe.fused_weight_gradient,
            fp8=recipe.fp8 != "off",
            kernels=kernels,
        )

    @property
    def layer_elements(self) -> float:
        """Of this rank's matrices of one layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.ffn)

    @property
    def linear(self) -> int:
        """Bytes of an element of what a matrix product keeps of its input."""
        return 1 if self.fp8 else self.element

    @property
    def stream(self) -> float:
        """Bytes of the residual stream."""
        return self.element * self.hidden * self.outer_tokens


def layer_kept(work: Work, recompute: str | None = None) -> Parts:
    """Bytes that one layer keeps from its forward to its backward pass."""
    return {part: sum(sizes) for part, sizes in layer_tensors(work, recompute).items()}


def layer_tensors(work: Work, recompute: str | None = None) -> dict[str, list[float]]:
    """The same, tensor by tensor."""
    recompute = work.recompute if recompute is None else recompute
    if recompute == "full":
        return {"layer inputs": [work.stream]}
    return {
        "norms": 2 * norm_tensors(work),
        "attention": _attention_tensors(work, recompute),
        "feed-forward": _feed_forward_tensors(work),
    }


def norm_tensors(work: Work) -> list[float]:
    """Of one norm, and its result, which is what the product after it keeps."""
    result = work.linear * work.hidden * work.outer_tokens
    scale = FP32 * work.outer_tokens
    if work.kernels.fused:
        return [work.stream, scale, result]
    # Its input and the normalised input, both fp32.
    wide = FP32 * work.hidden * work.outer_tokens
    return [wide, scale, wide, result]


def _attention_tensors(work: Work, recompute: str) -> list[float]:
    """The core's inputs and results; the projection keeps the same results."""
    query, key = (work.element * width * work.tokens for width in (work.queries, work.keys))
    joint = query + 2 * key  # what the product gave; values are a view of it
    results, statistics = query, FP32 * work.heads * work.tokens
    norms = _head_norm_tensors(work) if work.head_norms else []
    if work.kernels.transformer_engine and not work.own_attention:
        # Its core makes values contiguous, unless it is computed again and only its inputs are kept.
        core = [query, key, joint] if recompute == "selective" else [query, key, key, statistics]
        return [*norms, *core, results]
    if recompute == "selective":
        own = [query, key] if work.head_norms else [query]  # a copy of the queries, and views
        return [*norms, *own, joint, results]
    turns: list[float] = []
    if work.segments:  # cosines and sines of each token, for queries and for keys
        turns = 4 * [work.element * work.head_dim / 2 * work.tokens]
    if work.context > 1:  # keys and values of the whole sequence are gathered, and the joint product is free
        key, joint = key * work.context, key * work.context
    # Pieces keep their results, and what they are joined to is kept once more.
    return [*norms, *turns, query, key, joint, statistics, *([results] * (2 if work.segments else 1))]


def _head_norm_tensors(work: Work) -> list[float]:
    """Of the norms over heads of queries and of keys: as `norm_tensors`, but their results go into the core."""
    tensors = []
    for width, copied in ((work.queries, True), (work.keys, work.element < FP32)):
        tensors.append(FP32 * width / work.head_dim * work.tokens)
        if work.kernels.fused:
            tensors.append(work.element * width * work.tokens)
        else:  # keys that are fp32 already come as a view of the joint product
            tensors += [FP32 * width * work.tokens] * (2 if copied else 1)
    return tensors


def _feed_forward_tensors(work: Work) -> list[float]:
    up = work.ffn * work.element * work.tokens
    product = work.ffn * work.linear * work.tokens
    # Unfused: the activated gate, and a copy of `up` (megatron-core adds an offset of zero to it).
    return [2 * up, product] if work.kernels.fused else [2 * up, up, up, product]


def head_kept(work: Work) -> Parts:
    """Bytes that the last norm, the head and the loss keep."""
    norm = sum(norm_tensors(work))
    if not work.loss_chunk_tokens:
        # Probabilities, each token's label and whether it is this rank's; or the logits' gradient in their own place.
        kept = work.element * work.rows if work.kernels.transformer_engine else FP32 * work.rows + 9
        return {"norms": norm, "logits and loss": kept * work.tokens}
    gathered = work.element * work.hidden * work.tokens if work.outer_tokens < work.tokens else 0.0
    return {"norms": norm, "logits and loss": gathered + 8 * work.tokens}


def head_working(work: Work) -> float:
    """Most bytes that head and loss need at once beside what `head_kept` counts."""
    if work.kernels.transformer_engine:
        return _head_working_in_place(work)
    element, table = work.element, work.rows * work.hidden
    narrow = element < FP32
    gradient = element * work.hidden * work.tokens
    # A CPU adds bf16 gradients to fp32 ones by way of an fp32 copy.
    copied = FP32 * table if narrow else 0.0
    if work.loss_chunk_tokens:
        scores = FP32 * work.rows * min(work.loss_chunk_tokens, work.tokens)
        logits = scores / FP32 * element if narrow else 0.0
        total = 0.0 if work.fused_weight_gradient else FP32 * table
        product = element * table if copied else 0.0
        added = max(scores + 2 * logits, scores + logits + product + copied)
        return gradient + total + max(added, element * table)
    logits = element * work.rows * work.tokens if narrow else 0.0
    own = 0.0 if work.fused_weight_gradient else element * table
    gathered = gradient if work.outer_tokens < work.tokens else 0.0
    # Logits beside probabilities; or their gradient with the products that follow from it; or adding the weight's
    # gradient. In fp32 the gradient lies in the probabilities' own memory, in bf16 that is free by then.
    freed = FP32 * work.rows * work.tokens if narrow else 0.0
    return max(logits, logits - freed + own + gradient + gathered, own + copied + gradient - freed)


def _head_working_in_place(work: Work) -> float:
    """The same where the loss needs no room of its own: what follows from the logits' gradient."""
    table, gradient = work.rows * work.hidden, work.element * work.hidden * work.tokens
    own = work.element * table
    if work.loss_chunk_tokens:
        logits = work.element * work.rows * min(work.loss_chunk_tokens, work.tokens)
        total = 0.0 if work.fused_weight_gradient else FP32 * table
        return _stand_ins(work) + gradient + total + max(logits, own)
    gathered = gradient if work.outer_tokens < work.tokens else 0.0
    return _stand_ins(work) + own + gradient + gathered


def _stand_ins(work: Work) -> float:
    """Gradients that nobody reads, one for each shape of a layer's matrices: autograd is given them where the true ones
    went to their buffer inside the matrix product. The head's counts as its own."""
    if not work.fused_weight_gradient or not work.kernels.transformer_engine:
        return 0.0
    return work.element * work.layer_elements


def layer_working(work: Work) -> float:
    """Most bytes that a layer's backward pass needs beside what layers keep: gradients, recomputed parts."""
    again = sum(layer_kept(work, "none").values()) if work.recompute == "full" else 0.0
    widths = 3 if work.kernels.fused else 5
    inner = widths * work.ffn * work.element * work.tokens
    weight = 0.0 if work.fused_weight_gradient else 2 * work.ffn * work.hidden * work.element
    gathered = work.element * work.hidden * work.tokens if work.outer_tokens < work.tokens else 0.0
    return again + inner + weight + gathered + 2 * work.stream + _stand_ins(work)


def allocator_held(work: Work, layers: float, micro_batches: int) -> float:
    """Bytes that glibc holds on to without use on a CPU; GPUs have torch's own allocator, see `memory_margin`.

    Its aligned requests (torch asks for 64 bytes) ask for a little more than they take, so the place of a tensor that
    was freed does not fit the next one of its size: what the forward pass frees is lost until the backward pass frees
    what lies around it (not with full recomputation, where whole layers are freed at once). Small objects that stay
    split the room that a micro-batch leaves; the next one fits into a part of it.
    """
    if work.kernels.device == "gpu":
        return 0.0
    squares = FP32 * work.hidden * work.outer_tokens
    freed = [work.element * work.queries * work.tokens, work.stream, squares] if work.recompute != "full" else []
    kept = [size for sizes in layer_tensors(work).values() for size in sizes]
    gaps = _on_heap(freed) * layers
    return gaps + (_LOST_PER_REFILL * (_on_heap(kept) * layers + gaps) if micro_batches > 1 else 0.0)


_LOST_PER_REFILL = 0.4
"""Measured, glibc 2.36: a second micro-batch adds 0.3 (bf16) to 0.5 (fp32) of what the first took, later ones little.
Without its caches of small objects (tcache, fast bins) half of that remains; with `malloc_trim` in between, nothing."""


def _on_heap(sizes: list[float]) -> float:
    """Bytes of those that share glibc's heap: smaller ones lie elsewhere, from 32 MiB on each has pages of its own."""
    return sum(size for size in sizes if 2**17 <= size < 2**25)
