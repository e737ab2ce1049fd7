"""Pretraining: `python -m megatron_seed.train RECIPE key=value ...`, alone, under torchrun or under srun."""
