"""`megatron-seed data repositories`: whole repositories as documents, files in the order of their dependencies."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import (
    Corpus,
    Engine,
    EngineOption,
    Selection,
    Set,
    bars,
    engine_of,
    folder,
    pairs,
    settings_of,
)


def repositories(
    corpus: Corpus,
    out: Annotated[Path, typer.Argument(help="Folder of the corpus to write.", parser=folder, metavar="OUT")],
    selection: Selection = "main",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.", dir_okay=False)] = None,
    set_: Set = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Count its tokens; default: bytes.", exists=True)] = None,
    role: Annotated[list[str] | None, typer.Option(help="ROLE=TOKEN of a tokenizer that is not ours.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write a corpus of whole repositories: one document each, dependencies before what needs them."""
    from data_prep.repositories.run import describe, write_repositories
    from data_prep.repositories.settings import load_settings

    settings = load_settings(config, settings_of(set_))
    place = engine_of(engine, engine_option, workers, out)
    with bars() as progress:
        about = write_repositories(
            corpus, out, selection, settings, workers, tokenizer, pairs(role, "--role"), progress, place
        )
    first, *more = describe(about)
    typer.echo("\n".join([f"{out}: {first}", *more]))
