"""Stages that are done once: each result is kept, and a stage whose inputs have not changed is not run again."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_seed.checkpoint.manifest import NAME, has_sizes


class Stages:
    """The record of a sequence of stages, in `stages.json` of a folder.

    A stage that was killed has no result there and runs again; what it makes must itself go on where it stopped or
    replace what is there. Results are JSON values. A record that cannot be read counts as none.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.path = folder / "stages.json"
        self.console = console
        folder.mkdir(parents=True, exist_ok=True)
        self.records = self._read()

    def run(
        self,
        name: str,
        inputs: Any,
        function: Callable[[], Any],
        *,
        made: Path | None = None,
        goes_on_in: Path | None = None,
    ) -> Any:
        """The stage's result: kept if it ran before on equal inputs and `made` is still there, else computed now.

        `made` is a file or a folder, or the manifest of a folder, all of whose files must then be there.
        `goes_on_in` is the folder in which a stage that was stopped goes on. What was begun there on other inputs is
        moved aside first, so that the stage never goes on from it.
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        before = self.records.get(name, {})
        same = before.get("inputs") == key
        if same and "result" in before and (made is None or _is_there(made)):
            self.console.print(f"[dim]{name}: done before[/dim]")
            return before["result"]
        self.console.rule(f"[bold]{name}", align="left")
        if goes_on_in is not None:
            if not same and goes_on_in.exists():
                self._say(f"{goes_on_in} was made from other inputs: moved to {move_aside(goes_on_in)}")
            self._record(name, {"inputs": key})
        began = time.monotonic()
        # As a later run would read it, tuples as lists and so on.
        result = json.loads(json.dumps(function()))
        self._record(name, {"inputs": key, "result": result, "seconds": round(time.monotonic() - began, 2)})
        return result

    def key(self, name: str) -> str:
        """Stands for a stage's inputs in those of the stages after it."""
        return self.records[name]["inputs"]

    def seconds(self) -> dict[str, float]:
        return {name: record["seconds"] for name, record in self.records.items() if "seconds" in record}

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            records = json.loads(self.path.read_text(encoding="utf-8"))
            if all(isinstance(record, dict) and "inputs" in record for record in records.values()):
                return records
        except (OSError, ValueError, AttributeError):
            pass
        self._say(f"{self.path} cannot be read: every stage is looked at again")
        return {}

    def _record(self, name: str, record: dict[str, Any]) -> None:
        self.records[name] = record
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self.records, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _is_there(made: Path) -> bool:
    return has_sizes(made.parent) if made.name == NAME else made.exists()


def move_aside(path: Path) -> Path:
    """Rename a file or folder to the first free of `path.1`, `path.2`...; returns its new path."""
    path = Path(os.path.abspath(path))  # "." has no name to number
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return path.rename(next(other for other in numbered if not os.path.lexists(other)))
