"""What a run consists of while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_seed.config.schema import Recipe
from megatron_seed.runtime.groups import Groups
from megatron_seed.train.record import Recorder
from megatron_seed.train.stop import Stop
from megatron_seed.watch.watchdog import Watchdog


@dataclass(frozen=True)
class Run:
    """What hooks and loop work with; the parts do not change, their contents do."""

    recipe: Recipe
    groups: Groups
    models: Sequence[DistributedDataParallel]
    optimizer: MegatronOptimizer
    recorder: Recorder
    stop: Stop
    watchdog: Watchdog
