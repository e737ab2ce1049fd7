"""Commits as documents: each asks for a change, given its message and what the repository held before it.

As section 2.2.2 of the Seed-Coder report has it. `run.py` is the stage on a page.
"""
