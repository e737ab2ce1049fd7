"""What the commands of `megatron-seed data` have in common: arguments, and bars while they work."""

import contextlib
from collections.abc import Iterator, Mapping
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
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the settings, in YAML; SECTION.KEY in one, LIST.0.KEY or LIST.NAME.KEY."),
]


def pair(entry: str, option: str) -> tuple[str, str]:
    """`KEY=VALUE` taken apart. Raises `DataError` naming the option."""
    key, equals, value = entry.partition("=")
    if not (key and equals and value):
        raise DataError(f"{option} {entry!r}: KEY=VALUE is expected")
    return key, value


def pairs(entries: list[str] | None, option: str) -> dict[str, str]:
    """All `KEY=VALUE`s of an option."""
    return dict(pair(entry, option) for entry in entries or [])


def settings_of(entries: list[str] | None) -> dict[str, Any]:
    """`--set a.b=VALUE` as {a: {b: value}}; values are YAML."""
    import yaml

    found: dict[str, Any] = {}
    for entry in entries or []:
        key, text = pair(entry, "--set")
        *sections, last = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise DataError(f"--set {entry!r}: {section} has a value already, so it is no section")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise DataError(f"--set {entry!r}: the value is no YAML") from None
    return found


def say_drops(drops: Mapping[str, Mapping[str, Any]]) -> None:
    """What an import left out: a line for each reason, with an example where one was kept."""
    for reason, drop in sorted(drops.items()):
        example = f", such as {drop['examples'][0]}" if drop["examples"] else ""
        typer.echo(f"  dropped {drop['count']:,} ({reason}){example}")


def say_failed(result: Mapping[str, Any]) -> None:
    """Documents that an annotator could say nothing of, with the first of them."""
    if result["failed"]:
        first = result["failures"][0]
        typer.echo(f"  {result['failed']:,} failed, such as {first['path']} ({first['why']})")


def engine_of(name: str, options: list[str] | None, workers: int, work: Path) -> Any:
    """The engine asked for; its scripts and logs go into `work`, or here where that is in an object store.

    Every command holds `work` while it runs, so there is one run of an engine on it at a time.
    """
    from data_prep.engines.choose import make_engine
    from data_prep.engines.runs import FOLDER
    from data_prep.storage import is_remote

    place = Path("megatron-seed-engine") if is_remote(work) else work / FOLDER
    return make_engine(name, workers, place, pairs(options, "--engine-option"), work / FOLDER)


def wide_console() -> Console:
    """The terminal; elsewhere as wide as tables and paths need, since nothing says how wide that is."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Progress on a terminal; silence elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
