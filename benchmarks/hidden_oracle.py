"""The endpoint that scorers are measured on: one that rates by rules no scorer is told, with noise."""

from launch.full.stand_in import NOISE, serve

__all__ = ["NOISE", "serve"]
