"""What this machine can do, asked of it and not of a flag; a recipe that wants more is refused."""

from __future__ import annotations

import os

import torch

from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError
from megatron_seed.runtime import device

_INSTALL = "install the extra with `pip install --no-build-isolation -e '.[gpu]'` on a machine with an NVIDIA GPU"
_FP8_CAPABILITY = (8, 9)


def check_features(recipe: Recipe) -> None:
    """Raise one SeedError naming what the recipe asks for and is not there, and what to install or change."""
    problems = []
    engine = device.has_transformer_engine()
    if recipe.fp8 != "off" and not engine:
        problems.append(f"fp8: {recipe.fp8} needs TransformerEngine and a GPU: {_INSTALL}")
    elif recipe.fp8 != "off" and torch.cuda.get_device_capability() < _FP8_CAPABILITY:
        problems.append(f"fp8: {recipe.fp8} needs an Ada, Hopper or newer GPU, this is {torch.cuda.get_device_name()}")
    if recipe.fp8 != "off" and recipe.precision != "bf16":
        problems.append(f"fp8: {recipe.fp8} needs precision: bf16, not {recipe.precision}")
    if problems:
        raise SeedError("; ".join(problems))


def use_deterministic_kernels() -> None:
    """Make this process's kernels independent of timing; to be called before anything runs on the GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("NCCL_ALGO", "Ring")
    os.environ.setdefault("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "0")
    torch.use_deterministic_algorithms(True)
