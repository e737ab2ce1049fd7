"""Train with address space for a little more than the imports: `with_little_memory.py MEGABYTES RECIPE ...`."""

import resource
import sys

import psutil

if __name__ == "__main__":
    from megatron_seed.train import run
    from megatron_seed.train.__main__ import main

    real = run.run_phases

    def limited(*arguments: object) -> object:
        limit = psutil.Process().memory_info().vms + int(sys.argv[1]) * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return real(*arguments)

    run.run_phases = limited
    sys.exit(main(sys.argv[2:]))
