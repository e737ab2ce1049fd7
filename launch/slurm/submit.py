"""`megatron-seed launch run`: print a run's batch script, or submit it."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import load_cluster
from launch.slurm import control
from launch.slurm.command import CommandJob, command_script
from launch.slurm.history import History
from launch.slurm.script import job_name, render
from launch.slurm.snapshot import installed_code, snapshot_code, submission_dir, write_files
from launch.slurm.training import Request, TrainingJob, training_script
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.data.held_out import check_data
from megatron_seed.errors import SeedError


def run_script(recipe: str, overrides: Sequence[str], cluster: Path, request: Request, time: str | None) -> str:
    """The batch script of a run, to be read or handed to sbatch; it trains with the code and the recipe as they are
    when the job starts."""
    loaded = load_recipe(recipe, overrides)
    name = str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe
    job = TrainingJob(loaded, (name, *overrides), load_cluster(cluster, time), request, Path.cwd(), installed_code())
    return render(training_script(job))


def submit_run(
    recipe: str,
    overrides: Sequence[str],
    cluster: Path,
    request: Request,
    time: str | None = None,
    options: Sequence[str] = (),
    checked: bool = True,
) -> list[str]:
    """Keep code and settings in the run folder and submit a job that uses these; returns the ids of its jobs.

    `options` are sbatch's, such as a dependency. Without `checked` the data may be made by a job that comes first.
    """
    loaded, settings = load_recipe(recipe, overrides), load_cluster(cluster, time)
    if checked:
        check_data(loaded)
    run_dir = Path.cwd() / loaded.run_dir
    history = History(run_dir)
    refuse_a_second_job(history)
    training_script(
        TrainingJob(loaded, (recipe,), settings, request, Path.cwd(), None, True)
    )  # before anything is made
    folder = submission_dir(run_dir)
    kept = folder / "recipe.yaml"
    job = TrainingJob(loaded, (str(kept),), settings, request, Path.cwd(), snapshot_code(run_dir), submitted=True)
    text = render(training_script(job))
    command = f"{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}\n"
    write_files(
        folder,
        {"recipe.yaml": dump_recipe(loaded), "cluster.yaml": dump_recipe(settings), "job.sh": text, "command": command},
    )
    return submit_script(folder / "job.sh", history, request.chain, options, total_tokens(loaded))


def submit_script(script: Path, history: History, chain: int, options: Sequence[str], tokens: int) -> list[str]:
    """Submit a script as so many jobs. What was submitted is noted also when a later one is refused."""
    jobs: list[str] = []
    try:
        for _ in range(chain):
            jobs.append(sbatch(script, options))
    finally:
        if jobs:
            history.add("submitted", jobs=jobs, script=str(script), tokens=tokens)
    return jobs


def command_text(words: Sequence[str], cluster: Path, name: str, time: str | None) -> str:
    """The batch script of one command in this folder."""
    settings = load_cluster(cluster, time)
    log = Path.cwd() / f"{job_name(name, Path.cwd())}-%j.out"
    return render(command_script(CommandJob(name, tuple(words), settings, Path.cwd(), installed_code(), log)))


def submit_text(text: str) -> str:
    """Submit a script that is kept nowhere; Slurm has a copy of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return sbatch(Path(file.name))


def sbatch(script: Path, options: Sequence[str] = ()) -> str:
    """Id of the new job."""
    try:
        return control.slurm("sbatch", "--parsable", *options, str(script)).strip().partition(";")[0]
    except control.SlurmError as error:
        raise SeedError(f"Slurm did not take the job: {error}") from None


def total_tokens(recipe: Recipe) -> int:
    return sum(phase.tokens for phase in recipe.phases)


def refuse_a_second_job(history: History) -> None:
    """SeedError while Slurm still has jobs of this run."""
    jobs = [job for event in history.events() for job in event.get("jobs", [])]
    try:
        states = control.job_states(jobs)
    except control.SlurmError as error:
        raise SeedError(f"Slurm cannot be asked: {error}") from None
    alive = [f"{job} ({state})" for job, (state, _) in states.items() if state in control.ALIVE]
    if alive:
        raise SeedError(
            f"{history.run_dir}: jobs of this run are still there: {', '.join(alive)}; end them with `launch cancel`, "
            "or wait"
        )
