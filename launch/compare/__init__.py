"""Runs side by side: what was set differently, and what came of it, as one HTML page that needs nothing else."""

from launch.compare.command import compare_command

__all__ = ["compare_command"]
