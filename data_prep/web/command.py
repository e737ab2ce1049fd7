"""`megatron-seed data web`: pages of web archives as documents."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import Corpus, Engine, EngineOption, Set, bars, engine_of, say_drops, settings_of


def web(
    corpus: Corpus,
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="WARC files, or folders of them, or s3:// URLs; NAME=PATH names a source."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file: records, extraction.", dir_okay=False)] = None,
    set_: Set = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take this source out of the corpus.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Bring a corpus of web pages up to date with WARC files: one document for each page with text."""
    from data_prep.web.run import import_pages, source_of
    from data_prep.web.settings import load_config

    named = [source_of(source) for source in sources or []]
    settings = load_config(config, settings_of(set_))
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        report = import_pages(corpus, named, settings, workers, progress, chosen, remove or ())
    typer.echo(
        f"{corpus}: {report.documents:,} pages, {report.text_bytes / 1e6:,.2f} MB of text, {report.shards} shards "
        f"({report.units_made} of {report.units} parts read now)"
    )
    say_drops(report.drops)
