"""Refuse an environment in which training on GPUs would fail or has not been tried; needs no GPU."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata

RANGES = {"torch": ((2, 6), None), "megatron-core": ((0, 16, 1), (0, 20)), "transformer-engine": ((2, 9), (2, 12))}
"""First version that works, and first that has not been tried; as in setup.py."""


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.10.0a0+b4e4` is (2, 10, 0)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def problems() -> Iterator[str]:
    for name, (first, beyond) in RANGES.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"
            continue
        if release(version) < first or (beyond and release(version) >= beyond):
            until = f" and below {'.'.join(map(str, beyond))}" if beyond else ""
            yield f"{name} {version}: from {'.'.join(map(str, first))} on{until} is wanted"
    if importlib.util.find_spec("torch"):
        import torch

        if torch.version.cuda is None:
            yield f"torch {torch.__version__} is a build without CUDA"


if __name__ == "__main__":
    found = list(problems())
    for problem in found:
        print(f"megatron-seed: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)
