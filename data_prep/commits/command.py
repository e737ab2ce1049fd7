"""`megatron-seed data commits`: commits of Git repositories as documents."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.errors import DataError


def commits(
    corpus: Annotated[str, typer.Argument(help="Folder of the corpus, or s3:// URL.")],
    sources: Annotated[
        list[str], typer.Argument(help="Git repositories, or folders of them; NAME=PATH names a source.")
    ],
    metadata: Annotated[
        Path | None,
        typer.Option(help="Parquet, JSONL or CSV with repository, stars, forks.", exists=True, dir_okay=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file: repositories, commits, sample.", dir_okay=False)
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of the changes: unified_diff or search_replace.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Counts the tokens of a sample; default: estimated by bytes.", exists=True)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=64, help="Of a sample.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take this source out of the corpus.")] = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, slurm or ray.")] = "local",
    engine_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, such as partition=cpu.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Bring a corpus of commits up to date with its repositories: one document asks for the change of one commit."""
    from data_prep.commits.repositories import CommitSource, local_path
    from data_prep.commits.run import import_commits
    from data_prep.commits.settings import load_config
    from data_prep.engines.choose import make_engine
    from data_prep.sources.plan import default_name
    from data_prep.storage import as_path, is_remote

    named = []
    for source in sources:
        name, equals, path = source.partition("=")
        path = local_path(path if equals else source)
        named.append(CommitSource(path, name if equals else default_name(path)))
    sample = {"format": format, "tokenizer": str(tokenizer.resolve()) if tokenizer else None, "max_tokens": max_tokens}
    settings = load_config(config, {"sample": {key: value for key, value in sample.items() if value is not None}})
    folder = as_path(corpus)
    logs = Path("megatron-seed-engine") if is_remote(folder) else folder / "engine"
    chosen = make_engine(engine, workers, logs, dict(_pair(entry) for entry in engine_option or []))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        report = import_commits(folder, named, settings, metadata, workers, progress, chosen, remove or ())
    typer.echo(
        f"{corpus}: {report.documents:,} commits, {report.text_bytes / 1e6:,.2f} MB of text, {report.shards} shards "
        f"({report.units_made} of {report.units} batches made now)"
    )
    for reason, drop in sorted(report.drops.items()):
        what = "left out" if reason.startswith("file_") else "dropped"
        example = f", such as {drop['examples'][0]}" if drop["examples"] else ""
        typer.echo(f"  {what} {drop['count']:,} ({reason}){example}")


def _pair(entry: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not (key and equals and value):
        raise DataError(f"--engine-option {entry!r}: KEY=VALUE is expected")
    return key, value
