"""Near pairs of the run before: what did not change is not compared again.

A folder holds the pairs (by position) and `state.json`: which files the pairs are in, and which shards the positions
were of; it is written last and removed first. Pairs of which both items are of shards whose signatures are the same
still hold; the other shards are *fresh*, and all that they may be near to is looked for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.dedup.pairs import pair_records
from data_prep.partitions import ROW_BITS, Output, Runner, open_run, positions, write_run
from data_prep.shards import ShardTask, fingerprint, write_json
from data_prep.storage import move, remove_file, remove_folder


@dataclass(frozen=True)
class KnownPairs:
    """`settings` fingerprints what a pair depends on; `shards` are (name, digest) of those of this run."""

    folder: Path
    settings: str
    shards: tuple[tuple[str, str], ...]

    def moved(self) -> list[int]:
        """For each shard of the run before, where it is now; -1 where it has changed or is gone."""
        now = {shard: index for index, shard in enumerate(self.shards)}
        return [now.get((name, digest), -1) for name, digest in self._state().get("shards", ())]

    def _state(self) -> dict[str, Any]:
        """What is known of the run before: {} where it had other settings, or not all of its pairs are there."""
        try:
            state = json.loads((self.folder / "state.json").read_bytes())
        except (OSError, ValueError):
            return {}
        there = {path.name for path in self.folder.glob("*.npy")}
        whole = "pairs" in state and there.issuperset(state["pairs"])
        return state if whole and state.get("settings") == self.settings else {}

    def fresh(self) -> tuple[bool, ...]:
        """Which shards of this run were not there before."""
        known = set(self.moved())
        return tuple(index not in known for index in range(len(self.shards)))

    def carry(self, runner: Runner, work: Path) -> Output:
        """Runs of the pairs that still hold, by their positions now."""
        moved = self.moved()
        tasks, common = [], (moved,)
        for name in sorted(self._state().get("pairs", ())):
            path = self.folder / name
            made_of = fingerprint(path.name, path.stat().st_size, moved, self.settings)
            tasks.append(ShardTask(work / "carried" / path.name, made_of, carry_pairs, (path,), common))
        return runner.run("known pairs", tasks)

    def keep(self, pairs: Sequence[Path]) -> None:
        """Moves the pairs of this run into the place of those before."""
        remove_file(self.folder / "state.json")
        remove_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in pairs:
            move(path, self.folder / path.name)
        state = {"settings": self.settings, "shards": self.shards, "pairs": [path.name for path in pairs]}
        write_json(self.folder / "state.json", state)


def carry_pairs(stream: BinaryIO, pairs: Path, moved: Sequence[int]) -> dict[str, Any]:
    """Shard function: pairs of which both shards are still there, at their new positions."""
    found, now = np.array(open_run(pairs)), np.array(moved)
    places = []
    for name in ("one", "other"):
        shard = now[(found[name] >> np.uint64(ROW_BITS)).astype(np.int64)]
        places.append((shard, found[name] & np.uint64((1 << ROW_BITS) - 1)))
    there = (places[0][0] >= 0) & (places[1][0] >= 0)
    one, other = (positions(shard[there], row[there]) for shard, row in places)
    return write_run(stream, pair_records(one, other, found["shared"][there], found["total"][there]))
