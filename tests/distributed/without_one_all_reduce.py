"""Train with the all-reduce after row-parallel layers left out: what the parity test must notice."""

import sys

from megatron_seed.runtime import cpu_proxy

if __name__ == "__main__":
    cpu_proxy.install()
    from megatron.core.tensor_parallel import mappings

    mappings._ReduceFromModelParallelRegion.forward = staticmethod(lambda ctx, input_, group: input_)
    from megatron_seed.train.__main__ import main

    sys.exit(main(sys.argv[1:]))
