"""`megatron-seed data commits`: commits of Git repositories as documents."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import Corpus, Engine, EngineOption, Set, bars, engine_of, settings_of


def commits(
    corpus: Corpus,
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
    set_: Set = None,
    format: Annotated[str | None, typer.Option(help="Of the changes: unified_diff or search_replace.")] = None,
    markers: Annotated[str | None, typer.Option(help="Headings in a build: text, or special (tokens).")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Counts the tokens of a sample; default: estimated by bytes.", exists=True)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=64, help="Of a sample.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take this source out of the corpus.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Bring a corpus of commits up to date with its repositories: one document asks for the change of one commit."""
    from data_prep.commits.repositories import CommitSource, local_path
    from data_prep.commits.run import import_commits
    from data_prep.commits.settings import load_config
    from data_prep.settings import merged
    from data_prep.sources.plan import default_name, named

    chosen = []
    for name, path in map(named, sources):
        path = local_path(path)
        chosen.append(CommitSource(path, default_name(path) if name is None else name))
    counter = str(tokenizer.resolve()) if tokenizer else None
    sample = {"format": format, "markers": markers, "tokenizer": counter, "max_tokens": max_tokens}
    named_options = {"sample": {key: value for key, value in sample.items() if value is not None}}
    settings = load_config(config, merged(settings_of(set_), named_options))
    place = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        report = import_commits(corpus, chosen, settings, metadata, workers, progress, place, remove or ())
    typer.echo(
        f"{corpus}: {report.documents:,} commits, {report.text_bytes / 1e6:,.2f} MB of text, {report.shards} shards "
        f"({report.units_made} of {report.units} batches made now)"
    )
    for reason, drop in sorted(report.drops.items()):
        what = "left out" if reason.startswith("file_") else "dropped"
        example = f", such as {drop['examples'][0]}" if drop["examples"] else ""
        typer.echo(f"  {what} {drop['count']:,} ({reason}){example}")
