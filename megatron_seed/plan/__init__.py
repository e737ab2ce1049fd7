"""What a run will need and take, from its recipe alone: memory, time, layouts, checkpoints. No GPU, no torch."""
