"""Where a run's numbers go: metrics.jsonl, TensorBoard and wandb, written by rank 0."""

from __future__ import annotations

import collections
import hashlib
import logging
import netrc
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from megatron_seed.config.schema import Recipe
from megatron_seed.train import metrics
from megatron_seed.train.metrics import Row

logger = logging.getLogger(__name__)
_KEPT_ROWS = 10_000
_NO_LOGIN = "not logged in (`wandb login`)"


class Sink(Protocol):
    name: str

    def write(self, row: Row) -> None: ...
    def rewind(self, step: int) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Writes rows to every sink the recipe asks for; on the other ranks it does nothing.

    A sink that fails never ends the run: metrics.jsonl is tried again with the next row, the others are given up.
    """

    def __init__(self, recipe: Recipe, step: int, active: bool) -> None:
        self._active = active
        self._run_dir = recipe.run_dir
        self._metrics = _Metrics(recipe.run_dir)
        self._sinks: list[Sink] = []
        if active:
            metrics.rewind(recipe.run_dir, step)
            self._sinks = [*_tensorboard(recipe, step), *_wandb(recipe)]

    def write(self, row: Row) -> None:
        """A row has `kind`, `step` and numbers."""
        self.note(row)
        self._tell(lambda sink: sink.write(row))

    def note(self, row: Row) -> None:
        """A row for metrics.jsonl alone."""
        if self._active:
            self._metrics.write(row)

    def event(self, step: int, event: str, **facts: Any) -> None:
        """Something out of the ordinary: a row that stays when the run goes back, and a line on the console."""
        self.note({"kind": "event", "step": step, "event": event, "time": time.time(), **facts})
        if self._active:
            told = ", ".join(f"{name} {value}" for name, value in facts.items())
            logger.warning("step %d: %s%s", step, event.replace("_", " "), f": {told}" if told else "")

    def rewind(self, step: int) -> None:
        """The run went back to `step`: the steps after it are about to be done again."""
        if self._active:
            metrics.rewind(self._run_dir, step)
        self._tell(lambda sink: sink.rewind(step))

    def close(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                logger.warning("%s could not be closed: %s", sink.name, error)

    def _tell(self, what: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                what(sink)
            except Exception as error:  # of the network, the disk, or wandb's own
                logger.warning("%s failed, going on without it: %s", sink.name, error)
                self._sinks.remove(sink)


def _scalars(row: Row) -> dict[str, float]:
    """Numbers of a row under names such as `train/loss` and `evaluation/held_out/loss`."""
    place = f"{row['kind']}/{row['source']}" if "source" in row else row["kind"]
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
    return {f"{place}/{name}": float(value) for name, value in numbers.items()}


class _Metrics:
    """metrics.jsonl; what a full disk refused is kept for the next row."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._waiting: collections.deque[Row] = collections.deque(maxlen=_KEPT_ROWS)

    def write(self, row: Row) -> None:
        self._waiting.append(row)
        try:
            metrics.write(self._run_dir, *self._waiting)
        except OSError as error:
            if len(self._waiting) == 1:
                logger.warning("%s could not be written, will try again: %s", metrics.NAME, error)
            return
        self._waiting.clear()


class _TensorBoard:
    name = "TensorBoard"

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=_first_again(step))

    def write(self, row: Row) -> None:
        for name, value in _scalars(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def rewind(self, step: int) -> None:
        """Write what a new writer with `purge_step` would begin with, but in the same file: of two that were begun in
        one second TensorBoard may read the newer one first."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        again = Event(step=_first_again(step), session_log=SessionLog(status=SessionLog.START))
        self.writer.file_writer.add_event(again)

    def close(self) -> None:
        self.writer.close()


def _first_again(step: int) -> int:
    """First step that a run which stands at `step` does again; step 0 is the evaluation before the first update."""
    return step + 1 if step else 0


class _Wandb:
    """wandb drops rows whose number is not new, so those of steps that are done again get numbers after all others.
    Until then numbers are steps; curves are over steps anyway."""

    name = "wandb"

    def __init__(self, recipe: Recipe, mode: str) -> None:
        import wandb

        wait_s = recipe.logging.wandb_timeout_s
        self.run = wandb.init(
            project=recipe.logging.wandb_project,
            name=recipe.name,
            # The same run after every restart.
            id=hashlib.sha256(str(recipe.run_dir.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(recipe.run_dir),
            mode=mode,
            config=recipe.model_dump(mode="json"),
            # Without a network the end would be waited for without end; everything is on disk, for `wandb sync`.
            settings=wandb.Settings(silent=True, console="off", init_timeout=wait_s, finish_timeout=wait_s),
        )
        self.run.define_metric("*", step_metric="step")
        self._step: int | None = None
        self._number = self.run.starting_step - 1
        """Of the last row, which rows of its step join."""

    def write(self, row: Row) -> None:
        if row["step"] != self._step:
            self._step, self._number = row["step"], max(row["step"], self._number + 1)
        self.run.log({**_scalars(row), "step": row["step"]}, step=self._number)

    def rewind(self, step: int) -> None:
        """What was sent stays; no row joins it any more."""
        self._step = None

    def close(self) -> None:
        self.run.finish()


def _tensorboard(recipe: Recipe, step: int) -> list[Sink]:
    try:
        return [_TensorBoard(recipe.run_dir / "events", step)] if recipe.logging.tensorboard else []
    except OSError as error:
        logger.warning("TensorBoard did not start, going on without it: %s", error)
        return []


def _wandb(recipe: Recipe) -> list[Sink]:
    """A run without wandb is better than no run, and one on disk better than none: what stands in the way is logged."""
    wanted = recipe.logging.wandb
    if wanted == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return []
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would send those also of a run that is kept here
    online = wanted == "online" or (wanted == "auto" and os.environ.get("WANDB_MODE", "online") == "online")
    try:
        if online and (obstacle := _obstacle(recipe.logging.wandb_timeout_s)) is not None:
            if wanted == "online" or obstacle != _NO_LOGIN:
                logger.warning("wandb: %s; its files are kept for `wandb sync`", obstacle)
            online = False
        return [_Wandb(recipe, "online" if online else "offline")]
    except Exception as error:  # wandb raises errors of its own and of its service
        logger.warning("wandb did not start, going on without it: %s", str(error).partition("\n")[0])
        return []


def _obstacle(timeout_s: float) -> str | None:
    """What keeps numbers from being sent; wandb itself would ask on a terminal, and wait long for a network."""
    import wandb

    url = wandb.setup().settings.base_url
    if not _logged_in():
        return _NO_LOGIN
    try:
        urllib.request.urlopen(url, timeout=timeout_s).close()
    except urllib.error.HTTPError:  # it answers
        return None
    except (OSError, ValueError) as error:
        return f"{url} cannot be reached ({error})"
    return None


def _logged_in() -> bool:
    """wandb has a key for its server, from the environment or from `wandb login`."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return known.authenticators(urlsplit(settings.base_url).hostname or "") is not None
