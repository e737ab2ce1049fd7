"""The training stack: configuration, data order, model, training, checkpoints, plan, and what is made of a model."""

from megatron_seed.runtime.without_gpu import watch_for_megatron_core

watch_for_megatron_core()
