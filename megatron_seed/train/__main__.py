"""`python -m megatron_seed.train RECIPE key=value ...`: one process of a training job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError
from megatron_seed.runtime import exit_codes
from megatron_seed.runtime.groups import read_launch
from megatron_seed.runtime.noise import quieten_libraries
from megatron_seed.runtime.orphans import die_with_parent
from megatron_seed.runtime.signals import StoppedEarly
from megatron_seed.watch.peers import LostPeer

USAGE = "usage: python -m megatron_seed.train RECIPE [key=value ...]"


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    launch = read_launch()
    die_with_parent()
    logging.basicConfig(level=logging.INFO if launch.rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    quieten_libraries()
    try:
        from megatron_seed.train.run import train

        train(load_recipe(arguments[0], arguments[1:]))
    except StoppedEarly as error:
        if launch.rank == 0:
            print(f"megatron-seed: {error}", file=sys.stderr)
        return exit_codes.STOPPED_EARLY
    except LostPeer:  # said already, once for all ranks
        return exit_codes.LOST_PEER
    except SeedError as error:
        rank = f" rank {launch.rank}:" if launch.rank else ""
        print(f"megatron-seed:{rank} {error}", file=sys.stderr)
        return exit_codes.WRONG_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
