"""The numbers of every step, to the run's record and the console; from rank 0 only."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_seed.checkpoint import state
from megatron_seed.data.manifest import bytes_per_token
from megatron_seed.model.arithmetic import bits_per_byte, flops_per_token
from megatron_seed.plan.hardware import known_gpu
from megatron_seed.runtime import device
from megatron_seed.train.hooks import Hook, StepRecord
from megatron_seed.train.standing import steps_left
from megatron_seed.train.state import Run

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class LogHook(Hook):
    def __init__(self, run: Run, timed: Mapping[str, Hook]) -> None:
        """`timed` are hooks whose time is logged, by the name under which it is."""
        self.run = run
        self.timed = timed
        self.records: list[StepRecord] = []
        self.console: _ConsoleLine | None = None
        self._densities: dict[str, float | None] = {}

    def start(self, progress: state.Progress) -> None:
        if self.run.groups.is_main:
            self.console = _ConsoleLine(progress.step + steps_left(self.run.recipe, progress), progress.step)

    def after_step(self, record: StepRecord) -> None:
        if self.console is None:
            return
        self.records.append(record)
        if record.progress.step % self.run.recipe.logging.every_steps == 0:
            row = self._row(record)
            self.records.clear()
            self.run.recorder.write(row)
            self.console.update(row)

    def close(self) -> None:
        if self.console:
            self.console.close()

    def _row(self, record: StepRecord) -> dict[str, Any]:
        """Loss, rate and norm are those of the step itself; times are means, and sums of hooks, since the last row."""
        row = {
            "kind": "train",
            "step": record.progress.step,
            "tokens": record.progress.consumed_tokens,
            "phase": record.progress.phase,
            "loss": record.result.loss,
            "learning_rate": record.learning_rate,
            "grad_norm": record.result.grad_norm,
            "skipped": record.result.problem is not None,
            "step_seconds": record.seconds,
            **self._times(),
            **self._rates(record),
            "peak_memory_bytes": device.peak_memory_bytes(),
        }
        density = self._bytes_per_token(record.progress.phase)
        return row if density is None else {**row, "bits_per_byte": bits_per_byte(record.result.loss, density)}

    def _bytes_per_token(self, phase: str) -> float | None:
        if phase not in self._densities:
            (config,) = (known for known in self.run.recipe.phases if known.name == phase)
            text = self.run.recipe.model.head == "next_token"
            self._densities[phase] = bytes_per_token(config) if text else None
        return self._densities[phase]

    def _times(self) -> dict[str, float]:
        steps = len(self.records)
        times = {
            "data_seconds": sum(record.data_s for record in self.records) / steps,
            "forward_backward_seconds": sum(record.result.forward_backward_s for record in self.records) / steps,
            "optimizer_seconds": sum(record.result.optimizer_s for record in self.records) / steps,
        }
        for name, hook in self.timed.items():
            times[f"{name}_seconds"] = hook.spent_s
            hook.spent_s = 0.0
        return times

    def _rates(self, record: StepRecord) -> dict[str, float]:
        """Model FLOPs utilisation is tokens per second x FLOPs per token (see `flops_per_token`) over the peak rate."""
        recipe, devices = self.run.recipe, self.run.groups.launch.world_size
        speed = sum(record.tokens for record in self.records) / sum(record.seconds for record in self.records)
        phase = next(phase for phase in recipe.phases if phase.name == record.progress.phase)
        rates = {"tokens_per_second": speed, "tokens_per_second_per_device": speed / devices}
        peak = recipe.logging.peak_tflops_per_device or _peak_tflops(recipe.precision)
        for kind, causal in (("causal", True), ("full", False)):
            tflops = speed / devices * flops_per_token(recipe.model, phase.sequence_length, causal=causal) / 1e12
            rates[f"tflops_per_device_{kind}"] = tflops
            if peak:
                rates[f"mfu_{kind}"] = tflops / peak
        return rates


def _peak_tflops(precision: str) -> float | None:
    """Of this machine's GPU in bf16, whatever part of a step is FP8."""
    gpu = known_gpu(device.gpu_name())
    return gpu.bf16_flops / 1e12 if gpu and precision == "bf16" else None


class _ConsoleLine:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, steps: int, done: int) -> None:
        console = Console(stderr=True)
        self.steps = steps
        self.last_line = 0.0
        self.bar = None
        if console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.description}"), console=console)
            self.task = self.bar.add_task("", total=steps, completed=done)
            self.bar.start()

    def update(self, row: dict[str, Any]) -> None:
        numbers = f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s  rate {row['learning_rate']:.2e}"
        if "mfu_causal" in row:
            numbers += f"  MFU {row['mfu_causal']:.1%}"
        if self.bar:
            self.bar.update(self.task, completed=row["step"], description=numbers)
        elif time.monotonic() - self.last_line > _LINE_EVERY_S:
            self.last_line = time.monotonic()
            logger.info("step %d/%d  %s", row["step"], self.steps, numbers)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
