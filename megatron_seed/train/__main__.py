"""`python -m megatron_seed.train RECIPE key=value ...`: one process of a training job."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.runtime.groups import read_launch

USAGE = "usage: python -m megatron_seed.train RECIPE [key=value ...]"


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    launch = read_launch()
    logging.basicConfig(level=logging.INFO if launch.rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    _quieten_libraries()
    try:
        from megatron_seed.train.run import train

        train(load_recipe(arguments[0], arguments[1:]))
    except SeedError as error:
        if launch.rank == 0:
            print(f"megatron-seed: {error}", file=sys.stderr)
        return 2
    return 0


def _quieten_libraries() -> None:
    """Missing optional packages and deprecations inside megatron-core and torch are not the user's business."""
    for name in ("megatron.core", "torch.distributed", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in (r"megatron\.core", r"torch\.distributed"):
        warnings.filterwarnings("ignore", module=module)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for the helper processes of a save


# Saving starts a helper process that imports this module again.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
