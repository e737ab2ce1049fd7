"""How a run is kept going and watched: checkpoints, guards, stops, logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_seed.config.section import Positive, Section


class CheckpointConfig(Section):
    every_steps: Positive = 500
    keep_last: Positive = 3
    keep_every_steps: Annotated[int, Field(ge=0)] = 0
    """Checkpoints at multiples of this are kept for good; 0 keeps none but the last ones."""
    asynchronous: bool = True
    """Write while training goes on; it waits only for the copy."""


class GuardConfig(Section):
    """What counts as a loss or a replica that cannot be right, and what is done about it."""

    spike_window: Positive = 128
    """Losses of the last applied steps that the next is held against, once half of them are there."""
    spike_deviations: Annotated[float, Field(ge=0)] = 12.0
    """A loss so many robust standard deviations (1.4826 x median absolute deviation) above the window's median is a
    spike; 0 looks for none."""
    spike_minimum: Annotated[float, Field(ge=0)] = 0.5
    """Nats above the median below which nothing is a spike, however quiet the window."""
    max_skips: Positive = 3
    """Updates left out in a row before the run goes back to its last checkpoint and past the data that caused them."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """Times that a run may go back before it ends with an error; counted anew where its model is built anew."""
    compare_replicas_every_steps: Annotated[int, Field(ge=0)] = 100
    """Hold the parameters of replicas against each other, also before each save; 0 never."""


class StopConfig(Section):
    """When a run ends early, saved and ready to go on; signals do the same."""

    wall_clock_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds that the job may run, counted from the start of its processes."""
    margin_s: Annotated[float, Field(ge=0)] = 300.0
    """Seconds before that at which it stops, for the last save."""

    @model_validator(mode="after")
    def _time_is_left(self) -> StopConfig:
        if self.wall_clock_s is not None and self.wall_clock_s <= self.margin_s:
            raise ValueError(
                f"wall_clock_s {self.wall_clock_s:g} must be above margin_s {self.margin_s:g}, when a run is stopped"
            )
        return self


class WatchdogConfig(Section):
    """A job that stands still ends with an error that names the rank, instead of holding its machines."""

    hang_timeout_s: Annotated[float, Field(ge=0)] = 1800.0
    """Longest time without a finished step, evaluation batch or save; 0 waits for ever."""
    start_timeout_s: Annotated[float, Field(ge=0)] = 3600.0
    """The same for what is slow the first time: building the model, reading a checkpoint, a phase's first step."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 1.0
    """Each rank lets rank 0 know so often that it is there."""
    peer_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """A rank not heard of for so long is taken for dead."""
    slow_rank_ratio: Annotated[float, Field(ge=1)] = 1.3
    """A replica whose steps take so many times the median replica's is named as slow."""
    slow_rank_steps: Positive = 50
    """Steps over which that is measured."""

    @model_validator(mode="after")
    def _sign_of_life_in_time(self) -> WatchdogConfig:
        if self.heartbeat_s >= self.peer_timeout_s:
            raise ValueError(f"heartbeat_s {self.heartbeat_s:g} must be below peer_timeout_s {self.peer_timeout_s:g}")
        return self


class ProfileConfig(Section):
    """A trace of some steps, for chrome://tracing or Perfetto, in the run folder."""

    steps: tuple[Positive, Positive] | None = None
    """First and last step."""
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = (0,)

    @model_validator(mode="after")
    def _in_order(self) -> ProfileConfig:
        if self.steps and self.steps[0] > self.steps[1]:
            raise ValueError(f"steps {list(self.steps)}: the first step comes first")
        return self


class LoggingConfig(Section):
    every_steps: Positive = 1
    tensorboard: bool = True
    wandb: Literal["auto", "offline", "online", "off"] = "auto"
    """`auto` is online where wandb is logged in, else offline; `online` says so when it cannot be."""
    wandb_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest that reaching wandb may keep a run waiting, at its start and at its end."""
    wandb_project: str = "megatron-seed"
    peak_tflops_per_device: Annotated[float, Field(gt=0)] | None = None
    """What model FLOPs utilisation is a share of; None takes the dense bf16 rate of a known GPU, and logs none else."""
