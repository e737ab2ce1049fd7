"""Whether to go on, wait or stop: asked by all ranks together, so that all do the same."""

from __future__ import annotations

from megatron_seed.runtime.groups import Groups
from megatron_seed.runtime.signals import REASONS, StopRequest


class Stop:
    """A signal may reach one rank only, and ranks at different steps; what counts is what they agree on."""

    def __init__(self, request: StopRequest, groups: Groups) -> None:
        self._request = request
        self._groups = groups
        self.reason: str | None = None
        """Why the run ends early, once that is agreed."""

    def poll(self, ready: bool = True) -> bool:
        """Tell the others whether this rank is ready, and hear whether all are; sets `reason` when it is time to stop.

        A collective: every rank calls it at the same point.
        """
        mine = REASONS.index(self._request.reason) + 1 if self._request.reason else 0
        waiting, reason = self._groups.largest(int(not ready), mine)
        if reason:
            self.reason = REASONS[reason - 1]
        return not waiting
