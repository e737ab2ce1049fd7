"""One gloo group for the same processes, where megatron-core asks for many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist


@contextlib.contextmanager
def shared_groups() -> Iterator[None]:
    """Groups that megatron-core makes meanwhile, of the same processes, are one; they are destroyed at the end.

    It makes some twenty in each process. Over gloo each would keep three threads, one of which wakes a hundred times a
    second, in the midst of what the processor computes.
    """
    from megatron.core import parallel_state

    create, made = parallel_state.create_group, {}

    def shared(ranks: Sequence[int], **options: Any) -> dist.ProcessGroup:
        key = tuple(ranks)
        if key not in made:
            made[key] = create(ranks, **options)
        return made[key]

    parallel_state.create_group = shared
    try:
        yield
    finally:
        parallel_state.create_group = create
        for group in made.values():
            dist.destroy_process_group(group)
