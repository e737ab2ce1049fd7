"""Scorers: models that learn an oracle's scores and score every file (linear: on CPUs; llama: a transformer)."""
