"""`megatron-seed launch`: batch jobs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Batch jobs under Slurm.")

RunDir = Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]
ClusterFile = Annotated[Path, typer.Option("--cluster", help="Cluster file; docs/slurm.md shows one.")]


class Launcher(Enum):
    """Of the processes of a node."""

    srun = "srun"
    torchrun = "torchrun"


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    *,
    cluster: ClusterFile,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes to train on.")],
    spare_nodes: Annotated[int, typer.Option(min=0, help="Idle nodes that take the place of lost ones.")] = 0,
    min_nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Start, and go on, on as few; default: start on all, go on on --nodes."),
    ] = None,
    submit: Annotated[
        bool, typer.Option("--submit", help="Keep code and settings in the run folder, and submit.")
    ] = False,
    requeue: Annotated[bool, typer.Option(help="Go back to the queue when something fails.")] = True,
    chain: Annotated[
        int, typer.Option(min=1, help="Jobs, one after the other, instead of requeueing at the limit.")
    ] = 1,
    launcher: Annotated[
        Launcher, typer.Option(help="srun starts all processes, or torchrun on each node.")
    ] = Launcher.srun,
    tries: Annotated[int, typer.Option(min=1, help="Attempts without a new checkpoint before giving up.")] = 3,
    time: Annotated[str | None, typer.Option(help="Time limit of a job; default: the cluster file's.")] = None,
    health: Annotated[bool, typer.Option(help="Check the nodes first.")] = True,
) -> None:
    """Print the batch script that trains a recipe; with --submit, submit it."""
    from launch.slurm.submit import run_script, submit_run
    from launch.slurm.training import Request

    request = Request(nodes, spare_nodes, min_nodes, requeue, chain, launcher.value, tries, health)
    if not submit:
        typer.echo(run_script(recipe, overrides or (), cluster, request, time), nl=False)
        return
    jobs = submit_run(recipe, overrides or (), cluster, request, time)
    typer.echo(f"submitted {', '.join(jobs)}")


@app.command()
def status(run_dir: RunDir) -> None:
    """Say where a run stands: jobs, step, tokens, rate, days left, what was restarted and why."""
    from launch.slurm.watch import print_status

    print_status(run_dir, Console())


@app.command()
def cancel(
    run_dir: RunDir,
    now: Annotated[bool, typer.Option("--now", help="Without letting it save first.")] = False,
) -> None:
    """End all jobs of a run; what trains saves first."""
    from launch.slurm.watch import cancel_run

    for job, done in cancel_run(run_dir, now).items() or {"no job of this run": "there to cancel"}.items():
        typer.echo(f"{job}: {done}")


@app.command()
def logs(
    run_dir: RunDir,
    rank: Annotated[int, typer.Option(min=0, help="Which process.")] = 0,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which attempt; default: the newest.")] = None,
    lines: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the process ends.")] = False,
) -> None:
    """Print the output of one process of a run."""
    from launch.slurm.watch import print_log

    print_log(run_dir, rank, attempt, lines, follow)


@app.command(context_settings={"ignore_unknown_options": True})
def command(
    words: Annotated[list[str], typer.Argument(help="The command, such as megatron-seed hf export RUN OUT.")],
    *,
    cluster: ClusterFile,
    name: Annotated[str, typer.Option(help="Of the job, and of its log.")] = "command",
    time: Annotated[str | None, typer.Option(help="Time limit; default: the cluster file's.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit it.")] = False,
) -> None:
    """Print the batch script that runs one command on one node, such as a conversion; with --submit, submit it."""
    from launch.slurm.submit import command_text, submit_text

    text = command_text(words, cluster, name, time)
    if submit:
        typer.echo(f"submitted {submit_text(text)}")
    else:
        typer.echo(text, nl=False)


@app.command()
def pipeline(
    file: Annotated[Path, typer.Argument(help="Pipeline file; docs/slurm.md shows one.")],
    submit: Annotated[bool, typer.Option("--submit", help="Keep the code, and submit all steps.")] = False,
) -> None:
    """Print the batch scripts of jobs that wait for each other; with --submit, submit them."""
    from launch.pipeline import load_pipeline, pipeline_scripts, submit_pipeline

    loaded = load_pipeline(file)
    if not submit:
        for step, text in pipeline_scripts(loaded).items():
            typer.echo(f"### {step}\n{text}")
        return
    for submitted in submit_pipeline(loaded):
        after = f" after {', '.join(submitted.after)}" if submitted.after else ""
        typer.echo(f"{submitted.step}: {submitted.job}{after}")
