"""`megatron-seed data repositories`: whole repositories as documents, files in the order of their dependencies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.arguments import Corpus, Engine, EngineOption, Selection, bars, engine_of, folder, pairs
from data_prep.errors import DataError


def repositories(
    corpus: Corpus,
    out: Annotated[Path, typer.Argument(help="Folder of the corpus to write.", parser=folder, metavar="OUT")],
    selection: Selection = "main",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.", dir_okay=False)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the settings, in YAML.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Count its tokens; default: bytes.", exists=True)] = None,
    role: Annotated[list[str] | None, typer.Option(help="ROLE=TOKEN of a tokenizer that is not ours.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write a corpus of whole repositories: one document each, dependencies before what needs them."""
    import yaml

    from data_prep.repositories.run import describe, write_repositories
    from data_prep.repositories.settings import load_settings

    overrides: dict[str, Any] = {}
    for key, value in pairs(set_, "--set").items():
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise DataError(f"--set {key}={value}: the value is no YAML") from None
    settings = load_settings(config, overrides)
    place = engine_of(engine, engine_option, workers, out)
    with bars() as progress:
        about = write_repositories(
            corpus, out, selection, settings, workers, tokenizer, pairs(role, "--role"), progress, place
        )
    first, *more = describe(about)
    typer.echo("\n".join([f"{out}: {first}", *more]))
