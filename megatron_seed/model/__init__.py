"""The Llama-3-shaped decoder on megatron-core: layer specs, attention, loss, construction and arithmetic."""
