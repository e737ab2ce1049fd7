"""Stages that are done once: each result is kept, and a stage whose inputs have not changed is not run again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console


class Stages:
    """The record of a sequence of stages, in `stages.json` of a folder.

    A stage that was killed has no record and runs again; what it makes must itself go on where it stopped or replace
    what is there. Results are JSON values.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.path = folder / "stages.json"
        self.console = console
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def run(self, name: str, inputs: Any, function: Callable[[], Any], *, made: Path | None = None) -> Any:
        """The stage's result: kept if it ran before on equal inputs and `made` is still there, else computed now."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        before = self.done.get(name)
        if before and before["inputs"] == key and (made is None or made.exists()):
            self.console.print(f"[dim]{name}: done before[/dim]")
            return before["result"]
        self.console.rule(f"[bold]{name}", align="left")
        began = time.monotonic()
        result = function()
        self.done[name] = {"inputs": key, "result": result, "seconds": round(time.monotonic() - began, 2)}
        self._write()
        return json.loads(json.dumps(result))

    def key(self, name: str) -> str:
        """Stands for a stage's inputs in those of the stages after it."""
        return self.done[name]["inputs"]

    def seconds(self) -> dict[str, float]:
        return {name: record["seconds"] for name, record in self.done.items()}

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self.done, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)
