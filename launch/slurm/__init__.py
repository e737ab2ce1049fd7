"""Batch jobs under Slurm: rendered, submitted, supervised, watched.

`supervise`, and what it imports, runs on a compute node before any environment is set up: the standard library alone.
"""
