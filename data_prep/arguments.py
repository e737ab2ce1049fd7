"""What the commands of `megatron-seed data` have in common: arguments, and bars while they work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.errors import DataError


def folder(text: str) -> Path:
    """A folder, or the s3:// URL of one."""
    from data_prep.storage import as_path, is_remote

    try:
        path = as_path(text)
    except DataError as error:
        raise typer.BadParameter(str(error)) from None
    if not is_remote(path) and path.is_file():
        raise typer.BadParameter(f"{text} is a file.")
    return path


def folder_on_disk(text: str) -> Path:
    """A folder of a command that cannot read an object store."""
    from data_prep.storage import is_remote

    path = folder(text)
    if is_remote(path):
        raise typer.BadParameter(f"this command needs a disk; copy it there (aws s3 sync {text} FOLDER).")
    return path


Corpus = Annotated[Path, typer.Argument(help="Folder of the corpus, or s3:// URL.", parser=folder, metavar="CORPUS")]
CorpusOnDisk = Annotated[Path, typer.Argument(help="Folder of the corpus.", parser=folder_on_disk, metavar="CORPUS")]
Selection = Annotated[str, typer.Option("--selection", help="Name of the selection.")]
Engine = Annotated[str, typer.Option(help="Where it runs: local, slurm or ray.")]
EngineOption = Annotated[list[str] | None, typer.Option(help="KEY=VALUE, such as partition=cpu.")]


def pair(entry: str, option: str) -> tuple[str, str]:
    """`KEY=VALUE` taken apart. Raises `DataError` naming the option."""
    key, equals, value = entry.partition("=")
    if not (key and equals and value):
        raise DataError(f"{option} {entry!r}: KEY=VALUE is expected")
    return key, value


def pairs(entries: list[str] | None, option: str) -> dict[str, str]:
    """All `KEY=VALUE`s of an option."""
    return dict(pair(entry, option) for entry in entries or [])


def engine_of(name: str, options: list[str] | None, workers: int, work: Path) -> Any:
    """The engine asked for; its scripts and logs go into `work`, or here where that is in an object store."""
    from data_prep.engines.choose import make_engine
    from data_prep.storage import is_remote

    place = Path("megatron-seed-engine") if is_remote(work) else work / "engine"
    return make_engine(name, workers, place, pairs(options, "--engine-option"))


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Progress on a terminal; silence elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
