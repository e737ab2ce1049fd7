"""The learning rate as a pure function of the tokens consumed in a phase."""

from __future__ import annotations

import math

from megatron_seed.config.schema import LearningRate


def learning_rate_at(rate: LearningRate, consumed_tokens: int, phase_tokens: int) -> float:
    """Rate of the step after which `consumed_tokens` of the phase's `phase_tokens` are consumed.

    Warm-up is linear to the peak; the schedule runs over the tokens after it.
    """
    if consumed_tokens < rate.warmup_tokens:
        return rate.peak * consumed_tokens / rate.warmup_tokens
    span = max(1, phase_tokens - rate.warmup_tokens)
    progress = min(1.0, (consumed_tokens - rate.warmup_tokens) / span)
    if rate.schedule == "constant":
        return rate.peak
    if rate.schedule == "cosine":
        return rate.minimum + (rate.peak - rate.minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if rate.schedule == "linear":
        return rate.peak + (rate.minimum - rate.peak) * progress
    if rate.schedule == "warmup_stable_decay":
        left = max(0, phase_tokens - consumed_tokens)
        share = 1.0 if left >= rate.decay_tokens else left / rate.decay_tokens
        return rate.minimum + (rate.peak - rate.minimum) * share
    # inverse_square_root: continuous with the end of the warm-up (Vaswani et al., 2017, section 5.3).
    warmup = max(1, rate.warmup_tokens)
    return max(rate.minimum, rate.peak * math.sqrt(warmup / max(warmup, consumed_tokens)))
