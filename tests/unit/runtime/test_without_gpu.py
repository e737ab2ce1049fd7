"""megatron-core on a login node, or with CUDA_VISIBLE_DEVICES empty: no CUDA extension is used, nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.checkpoint.layout import finished

NEEDS_A_GPU = """
class FusedAdam:
    def __init__(self, *args, **kwargs):
        raise RuntimeError("Found no NVIDIA driver on your system")


def __getattr__(name):
    raise RuntimeError(f"{__name__}.{name}: found no NVIDIA driver on your system")
"""


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_nothing_is_compiled(start: Callable, tmp_path: Path) -> None:
    script = tmp_path / "imports.py"
    script.write_text("import sys, megatron_seed.train.run\nprint(*(name for name in sys.modules if 'torch' in name))")
    imported = start(script, fresh=True).stdout.split()
    assert "torch.nn" in imported and "torch._inductor.compile_fx" not in imported


@pytest.mark.parametrize("extension", ["transformer_engine.pytorch.optimizers", "apex.optimizers"])
def test_training_leaves_them_alone(
    extension: str, tiny_recipe: Callable[..., Path], start: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    for package in extension.split("."):
        folder = folder / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('__version__ = "2.11.0"\n')
    (folder / "__init__.py").write_text(NEEDS_A_GPU)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    recipe = tiny_recipe("login_node")
    start("-m", "megatron_seed.train", recipe, "phases.0.tokens=512", fresh=True)
    assert finished(recipe.with_suffix(""))
