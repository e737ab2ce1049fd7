"""Hugging Face directories from checkpoints and back, tensor by tensor, without building a model."""
