"""megatron-core as it is to be imported where no GPU is: on a laptop, a login node, or with CUDA_VISIBLE_DEVICES empty.

It takes its optimizer, norms and reductions from TransformerEngine or apex wherever they can be imported, and these
then look for a GPU. And it hands its element-wise functions to torch.compile, which costs two seconds of every start,
for code that a CPU runs as it stands.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

_NEED_A_GPU = ("transformer_engine", "apex")


def watch_for_megatron_core() -> None:
    """From here on, whoever imports megatron-core in this process gets it so, unless there is a GPU."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in ("megatron.core", "megatron.core.jit"):
            return None
        from megatron_seed.runtime import device  # not before: torch takes a second

        if device.has_gpu():
            return None
        if name == "megatron.core":
            for extension in _NEED_A_GPU:
                sys.modules.setdefault(extension, None)
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _without_compiling(spec.loader.exec_module)
        return spec


def _without_compiling(execute: Any) -> Any:
    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        module.disable_jit_fuser()

    return exec_module
