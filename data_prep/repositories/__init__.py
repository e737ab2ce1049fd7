"""Whole repositories as single strings: files in the order of their dependencies (Seed-Coder report, section 2.2.5)."""
