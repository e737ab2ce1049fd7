"""Extensions for CUDA where no GPU is: on a login node, or with CUDA_VISIBLE_DEVICES empty.

megatron-core takes its optimizer, norms and reductions from TransformerEngine or apex wherever they can be imported,
and these then look for a GPU.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

_NEED_A_GPU = ("transformer_engine", "apex")


def hide_without_gpu() -> None:
    """From here on, whoever imports megatron-core in this process finds none of them, unless there is a GPU."""
    sys.meta_path.insert(0, _BeforeMegatronCore())


class _BeforeMegatronCore(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "megatron.core":
            return
        import torch

        if not torch.cuda.is_available():
            for extension in _NEED_A_GPU:
                sys.modules.setdefault(extension, None)
