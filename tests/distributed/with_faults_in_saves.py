"""Trains a recipe that has no room for checkpoints for a while: `RECIPE FULL_FROM FULL_UNTIL WHAT`.

Between these steps, either the disk is full (WHAT is the file that fills it), or rank 1 alone may not write (`limit`).
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from megatron_seed.train.__main__ import main
from megatron_seed.train.hooks.save import SaveHook

recipe, full_from, full_until, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
after_step = SaveHook.after_step


def fill_disk(full: bool) -> None:
    if not full:
        Path(what).unlink()
        return
    room = os.statvfs(Path(what).parent)
    Path(what).write_bytes(bytes(room.f_bavail * room.f_frsize - 50_000))


def limit_files(full: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if full else hard, hard))


def with_faults(self: SaveHook, record: object) -> None:
    # What is under way ends first, so that the saves of these steps fail and no other.
    self.settle()
    step, rank = record.progress.step, self.run.groups.rank
    if step in (full_from, full_until):
        if what == "limit" and rank == 1:
            limit_files(step == full_from)
        elif what != "limit" and rank == 0:
            fill_disk(step == full_from)
    after_step(self, record)


SaveHook.after_step = with_faults
sys.exit(main([recipe]))
