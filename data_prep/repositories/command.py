"""`megatron-seed data repositories`: whole repositories as documents, files in the order of their dependencies."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.errors import DataError


def _folder(text: str) -> Path:
    from data_prep.storage import as_path

    try:
        return as_path(text)
    except DataError as error:
        raise typer.BadParameter(str(error)) from None


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def _pairs(entries: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for entry in entries or []:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise DataError(f"{option} {entry!r}: KEY=VALUE is expected")
        found[key] = value
    return found


def repositories(
    corpus: Annotated[Path, typer.Argument(help="Folder of the corpus.", parser=_folder, metavar="CORPUS")],
    out: Annotated[Path, typer.Argument(help="Folder of the corpus to write.", parser=_folder, metavar="OUT")],
    selection: Annotated[str, typer.Option(help="Name of the selection.")] = "main",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.", dir_okay=False)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the settings, in YAML.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Count its tokens; default: bytes.", exists=True)] = None,
    role: Annotated[list[str] | None, typer.Option(help="ROLE=TOKEN of a tokenizer that is not ours.")] = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, slurm or ray.")] = "local",
    engine_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, such as partition=cpu.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write a corpus of whole repositories: one document each, dependencies before what needs them."""
    import yaml

    from data_prep.engines.choose import make_engine
    from data_prep.repositories.run import describe, write_repositories
    from data_prep.repositories.settings import load_settings

    overrides: dict[str, Any] = {}
    for key, value in _pairs(set_, "--set").items():
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise DataError(f"--set {key}={value}: the value is no YAML") from None
    settings = load_settings(config, overrides)
    place = make_engine(engine, workers, Path("megatron-seed-engine"), _pairs(engine_option, "--engine-option"))
    with _progress() as progress:
        about = write_repositories(
            corpus, out, selection, settings, workers, tokenizer, _pairs(role, "--role"), progress, place
        )
    first, *more = describe(about)
    typer.echo("\n".join([f"{out}: {first}", *more]))
