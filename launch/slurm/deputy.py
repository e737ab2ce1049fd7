"""`python -m launch.slurm.deputy JOB requeue|cancel`: on another node than the supervisor, in case that one is lost.

A job with `--no-kill` that loses the node of its batch script goes on without one until its time limit, holding all of
its nodes: this ends it, or puts it back into the queue.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Sequence

from launch.slurm import control

_LOOK_EVERY_S = 15.0


def main(arguments: Sequence[str]) -> int:
    job, then = arguments
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # meant for training
    while True:
        time.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(control.SlurmError):  # the controller is away, or did not take it: the next time
            if not control.has_lost_batch_host(job):
                continue
            print(f"megatron-seed: the node of job {job}'s batch script is lost: {then}", flush=True)
            if then == "requeue":
                control.requeue(job, ())
            else:
                control.cancel([job])
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
