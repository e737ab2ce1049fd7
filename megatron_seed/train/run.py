"""A training run from recipe to last step: build, resume, loop, and build again where a phase changes the layout."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import Progress as Bars

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.data.held_out import check_data
from megatron_seed.data.order import build_orders, missing_orders
from megatron_seed.errors import SeedError
from megatron_seed.model.build import Compute, build_model
from megatron_seed.optim.build import build_optimizer, wrap_data_parallel
from megatron_seed.runtime.features import check_features, use_deterministic_kernels
from megatron_seed.runtime.groups import Groups, Launch, job, laid_out, read_launch
from megatron_seed.runtime.memory import memory_told
from megatron_seed.runtime.signals import StoppedEarly, StopRequest
from megatron_seed.train.hooks import Hook
from megatron_seed.train.hooks.evaluate import EvaluateHook
from megatron_seed.train.hooks.log import LogHook
from megatron_seed.train.hooks.profile import ProfileHook
from megatron_seed.train.hooks.replicas import ReplicasHook
from megatron_seed.train.hooks.save import SaveHook
from megatron_seed.train.hooks.slow_ranks import SlowRanksHook
from megatron_seed.train.loop import run_phases
from megatron_seed.train.record import Recorder
from megatron_seed.train.resume import Start, find_start, load_start
from megatron_seed.train.standing import check_start, phases_left, reading_of, stands
from megatron_seed.train.state import Run
from megatron_seed.train.stop import Stop
from megatron_seed.watch.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train(recipe: Recipe) -> Progress:
    """Train a recipe to its end, going on from the newest good checkpoint of its run folder.

    Raises SeedError before anything starts when layout, data or machine cannot work, and StoppedEarly when a signal or
    the wall clock ended the run before its last step; everything is saved then.
    """
    launch = read_launch()
    check_layout(recipe, launch.world_size)
    check_features(recipe)
    check_data(recipe, thorough=launch.local_rank == 0)
    check_start(recipe)
    with StopRequest(recipe.stop.wall_clock_s, recipe.stop.margin_s) as request:
        prepare_orders(recipe, builds=launch.local_rank == 0, request=request)
        if recipe.deterministic:
            use_deterministic_kernels()
        watchdog = Watchdog(recipe.watchdog, launch, recipe.run_dir)
        timeout_s = watchdog.collective_timeout_s
        with _sole_writer(recipe, launch), job(timeout_s) as launch, watchdog, memory_told(recipe.run_dir, launch.rank):
            stretches, number = _stretches(recipe), 0
            progress, where = Progress(), None
            while number < len(stretches):
                phases = stretches[number]
                watchdog.beat(f"step {progress.step}" if progress.step else "the start", starting=True)
                with laid_out(launch, recipe.layout_of(phases[0]), recipe.seed, timeout_s) as groups:
                    where = where or find_start(recipe, groups)
                    # The checkpoint decides: it may be one of an earlier stretch, where the newest ones are damaged.
                    due = min(_first_left(recipe, stretches, where), len(stretches) - 1)
                    if due == number:
                        progress = _train_stretch(recipe, phases, groups, request, watchdog, where)
                        number, where = _first_left(recipe, stretches, progress), None
                    else:
                        number = due
    return progress


@contextlib.contextmanager
def _sole_writer(recipe: Recipe, launch: Launch) -> Iterator[None]:
    """Hold the run folder, on rank 0; raises SeedError when another job has it."""
    if launch.rank:
        yield
        return
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    with (recipe.run_dir / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SeedError(
                f"{recipe.run_dir}: another training job is writing there; wait for it, or stop it"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see to it that no other job writes there", recipe.run_dir, error)
        yield


def prepare_orders(recipe: Recipe, builds: bool, request: StopRequest) -> None:
    """Have the document orders of large builds in place before the job's first collective, which could time out.

    One process of each node makes what is missing; the others look for the files now and then.
    """
    reading = reading_of(recipe)
    if builds:
        console = Console(stderr=True)
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            build_orders(recipe, bars, request.check, reading)
    while missing_orders(recipe, reading):
        request.check()
        time.sleep(1.0)
    request.check()


def start(
    recipe: Recipe,
    groups: Groups,
    phase: PhaseConfig | None = None,
    request: StopRequest | None = None,
    watchdog: Watchdog | None = None,
    where: Start | None = None,
) -> tuple[Run, Progress]:
    """Build model and optimizer for a phase (default: the first) and put them where the run stands: `where`, or what
    `find_start` finds."""
    phase = phase or recipe.phases[0]
    layout = recipe.layout_of(phase)
    if groups.is_main:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        manifest.write_text(recipe.run_dir / "config.yaml", dump_recipe(recipe))
    where = where or find_start(recipe, groups)
    seed = recipe.seed if where is None or where.new_head else None
    chunks = build_model(recipe.model_of(phase), layout, compute_of(recipe, phase), seed=seed)
    models = wrap_data_parallel(chunks, layout)
    optimizer = build_optimizer(models, recipe.optimizer, layout, recipe.precision)
    progress = load_start(where, recipe, models, optimizer, groups) if where else Progress()
    recorder = Recorder(recipe, progress.step, active=groups.is_main)
    stop = Stop(request or StopRequest(), groups)
    watchdog = watchdog or Watchdog(recipe.watchdog, groups.launch, recipe.run_dir)
    return Run(recipe, groups, models, optimizer, recorder, stop, watchdog), progress


def compute_of(recipe: Recipe, phase: PhaseConfig) -> Compute:
    """How a phase computes. Documents that are split over ranks need our attention: TransformerEngine's takes documents
    whose lengths divide by 2 x context_parallel, ours come as they are."""
    return Compute(
        recipe.precision,
        recipe.fp8,
        recipe.fused_weight_gradient,
        recipe.loss_chunk_tokens,
        recipe.deterministic,
        own_attention=phase.document_mask and recipe.layout_of(phase).context_parallel > 1,
    )


def _stretches(recipe: Recipe) -> list[list[PhaseConfig]]:
    """Neighbouring phases that one built model can train."""

    def built(phase: PhaseConfig) -> tuple[object, ...]:
        return recipe.layout_of(phase), recipe.model_of(phase), compute_of(recipe, phase)

    return [list(phases) for _, phases in itertools.groupby(recipe.phases, key=built)]


def _first_left(recipe: Recipe, stretches: Sequence[Sequence[PhaseConfig]], at: Start | Progress | None) -> int:
    """Number of the stretch in which a run goes on from there; their count when nothing is left."""
    progress = stands(at.checkpoint, at.branch, recipe) if isinstance(at, Start) else at or Progress()
    left = (number for number, phases in enumerate(stretches) if phases_left(recipe, phases, progress))
    return next(left, len(stretches))


def _train_stretch(
    recipe: Recipe,
    phases: Sequence[PhaseConfig],
    groups: Groups,
    request: StopRequest,
    watchdog: Watchdog,
    where: Start | None,
) -> Progress:
    """Train what is left of these phases; its last checkpoint is where the next stretch begins.

    The run may stand before these phases afterwards: where it went back to a checkpoint that is older than they are.
    """
    run, progress = start(recipe, groups, phases[0], request, watchdog, where)
    try:
        progress = run_phases(run, phases, progress, hooks_of(run))
    finally:
        run.recorder.close()
    if run.stop.reason:
        run.recorder.event(progress.step, "stopped_early", reason=run.stop.reason)
        saved = "" if progress.skips else ", saved"
        raise StoppedEarly(
            f"stopped by {run.stop.reason} after step {progress.step}{saved}; start the same command again to go on"
        )
    return progress


def hooks_of(run: Run) -> list[Hook]:
    """In the order in which they are called; saving comes last, after all that may refuse it."""
    evaluate, save = EvaluateHook(run), SaveHook(run)
    timed = {"evaluation": evaluate, "save": save}
    return [LogHook(run, timed), ProfileHook(run), SlowRanksHook(run), evaluate, ReplicasHook(run), save]
