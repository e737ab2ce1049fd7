"""The training stack: configuration, data order, model, training, checkpoints, plan, and what is made of a model."""

from megatron_seed.runtime.extensions import hide_without_gpu

hide_without_gpu()
