"""Losses and gradients that cannot be right: computed once more, and left out when they come out the same."""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.running import GuardConfig
from megatron_seed.data.loader import Batch
from megatron_seed.optim.build import update_parameters
from megatron_seed.train.state import Run
from megatron_seed.train.step import Gradients, compute_gradients

_SAME = 1e-3
"""Relative difference up to which two computations of one batch count as equal: kernels may add in another order."""


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the global batch's tokens, nats."""
    grad_norm: float
    """Global, before clipping."""
    busy_s: float
    """This rank's forward and backward pass, without waiting for other replicas."""
    forward_backward_s: float
    """All computing of gradients, with their reduction."""
    optimizer_s: float
    problem: str | None = None
    """Why the update was left out; None for one that was made."""


def spike_threshold(config: GuardConfig, recent_losses: Sequence[float]) -> float | None:
    """Loss above which a step is a spike: median plus so many robust deviations of the window, and at least
    `spike_minimum`. None while less than half of the window is there, or when no spikes are looked for."""
    if not config.spike_deviations or 2 * len(recent_losses) < config.spike_window:
        return None
    median = statistics.median(recent_losses)
    deviation = 1.4826 * statistics.median(abs(loss - median) for loss in recent_losses)
    return median + max(config.spike_minimum, config.spike_deviations * deviation)


def judge(config: GuardConfig, recent_losses: Sequence[float], loss: float, grad_norm: float) -> str | None:
    """What is wrong with a step, None when nothing is."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm is {grad_norm}"
    threshold = spike_threshold(config, recent_losses)
    if threshold is not None and loss > threshold:
        return f"loss {loss:.4g} is a spike: above {threshold:.4g}"
    return None


def guarded_step(run: Run, progress: Progress, batches: Sequence[Batch]) -> StepResult:
    """One optimizer step over this rank's micro-batches, or none when its numbers are wrong twice."""
    began = time.perf_counter()
    gradients, problem = _checked_gradients(run, progress, batches)
    computed = time.perf_counter()
    if problem is None and not update_parameters(run.optimizer, gradients.grad_norm, gradients.tokens):
        problem = "the optimizer refused the step"
    return StepResult(
        gradients.loss,
        gradients.grad_norm,
        gradients.busy_s,
        forward_backward_s=computed - began,
        optimizer_s=time.perf_counter() - computed,
        problem=problem,
    )


def _checked_gradients(run: Run, progress: Progress, batches: Sequence[Batch]) -> tuple[Gradients, str | None]:
    """Gradients, and what is wrong with them after a second computation."""
    step, recent = progress.step + 1, progress.recent_losses
    first = compute_gradients(run.models, run.optimizer, batches, run.groups)
    problem = judge(run.recipe.guard, recent, first.loss, first.grad_norm)
    if problem is None:
        return first, None
    before = _own_work(run, first)
    second = compute_gradients(run.models, run.optimizer, batches, run.groups)
    still = judge(run.recipe.guard, recent, second.loss, second.grad_norm)
    if still is None:
        where = _that_differ(run, before, _own_work(run, second))
        run.recorder.event(step, "hardware_error", problem=problem, ranks=where)
    else:
        run.recorder.event(step, "update_skipped", problem=still)
    return second, still


def _own_work(run: Run, gradients: Gradients) -> tuple[float, float | None]:
    """What this rank alone computed: its summed loss, and its gradients' norm where it can be told."""
    return gradients.own_loss, run.models[0].config.finalize_model_grads_func.own_norm(run.models)


def _that_differ(run: Run, before: tuple[float, float | None], after: tuple[float, float | None]) -> list[str]:
    """Ranks, with hosts, whose own numbers came out otherwise the second time."""
    same = all(a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_SAME))
               for a, b in zip(before, after, strict=True))  # fmt: skip
    answers = run.groups.gather(None if same else f"rank {run.groups.rank} ({socket.gethostname()})")
    return [answer for answer in answers if answer]
