"""Keeping libraries' chatter off the user's terminal."""

from __future__ import annotations

import logging
import os
import warnings


def quieten_libraries() -> None:
    """Missing optional packages and deprecations inside megatron-core and torch are not the user's business."""
    for name in ("megatron.core", "torch.distributed", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in (r"megatron\.core", r"torch\.distributed"):
        warnings.filterwarnings("ignore", module=module)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for helper processes, such as those of a save
