"""`megatron-seed data inspect`: a corpus in numbers, or the documents of a build as a model sees them."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from data_prep.arguments import pairs, wide_console
from data_prep.errors import DataError

_OF_BUILDS = "builds: "
_OF_CORPORA = "corpora: "
_CORPUS_OPTIONS = {"selection", "as_json"}
_NAMES = {"as_json": "json"}
"""Of options that are called otherwise in Python."""


def inspect(
    context: typer.Context,
    place: Annotated[str, typer.Argument(help="A corpus, a build (by prefix or file), or a folder of builds.")],
    selection: Annotated[
        str | None, typer.Option(help=f"{_OF_CORPORA}name of a selection; default: the only one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=f"{_OF_CORPORA}print the numbers as JSON.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help=f"{_OF_BUILDS}the one that made it.", exists=True)] = None,
    documents: Annotated[int, typer.Option(min=1, help=f"{_OF_BUILDS}how many are shown.")] = 5,
    document: Annotated[list[int] | None, typer.Option(help=f"{_OF_BUILDS}show this one, by its number.")] = None,
    tokens: Annotated[int, typer.Option(min=0, help=f"{_OF_BUILDS}shown of each document; 0 for all.")] = 600,
    seed: Annotated[int, typer.Option(help=f"{_OF_BUILDS}draws the documents.")] = 1,
    infilling: Annotated[
        bool, typer.Option("--infilling", help=f"{_OF_BUILDS}only documents that were split for it.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help=f"{_OF_BUILDS}every token by itself, with its id.")] = False,
    out: Annotated[
        Path | None, typer.Option(help=f"{_OF_BUILDS}page to write; default: they are shown here.", dir_okay=False)
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(help=f"{_OF_BUILDS}ROLE=TOKEN of a tokenizer that is not ours.")
    ] = None,
) -> None:
    """Show what a corpus holds, what was dropped and what is selected; or what a model sees of a build."""
    from data_prep.inspect.build_view import Choice, show_build, table_of_builds
    from data_prep.inspect.reader import builds_in, is_build, prefix_of
    from data_prep.inspect.show import print_shown, write_page
    from data_prep.storage import as_path

    console = wide_console()
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    path = as_path(place)
    if not is_build(path):
        if not (path / "documents").is_dir():
            raise DataError(f"{place}: neither a corpus nor a build{_below(path)}")
        _refuse(given - _CORPUS_OPTIONS, f"{place} is no build")
        _inspect_corpus(path, selection, as_json, Console())
        return
    _refuse(given & _CORPUS_OPTIONS, f"{place} is no corpus")
    if path.is_dir():
        _refuse(given, f"{place} holds builds: {', '.join(prefix.name for prefix in builds_in(path))}; name one")
        console.print(table_of_builds(path))
        return
    prefix = prefix_of(place)
    if tokenizer is None:
        raise DataError(f"{prefix}: name the tokenizer that made it: --tokenizer DIRECTORY")
    choice = Choice(documents, document or (), tokens, seed, infilling, ids)
    shown, facts = show_build(prefix, tokenizer, choice, pairs(role, "--role"))
    if out:
        write_page(out, f"Documents of {prefix}", facts, shown)
        typer.echo(f"{out}: {len(shown)} documents of {prefix}")
    else:
        print_shown(console, shown, ids)


def _refuse(options: set[str], why: str) -> None:
    if options - {"place"}:
        names = ", ".join(f"--{_NAMES.get(name, name)}" for name in sorted(options - {"place"}))
        raise DataError(f"{why}; {names} cannot be used with it")


def _below(path: Path) -> str:
    """What may have been meant: the folders of builds in a folder."""
    from data_prep.inspect.reader import builds_in
    from data_prep.storage import is_remote

    if is_remote(path) or not path.is_dir():
        return ""
    found = [str(folder) for folder in sorted(path.iterdir()) if folder.is_dir() and builds_in(folder)]
    return f"; builds are in {', '.join(found)}" if found else ""


def _inspect_corpus(corpus: Path, selection: str | None, as_json: bool, console: Console) -> None:
    from data_prep.report import corpus_report, render
    from data_prep.selection.places import selection_names

    names = selection_names(corpus)
    report = corpus_report(corpus, selection or (names[0] if len(names) == 1 else None))
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        console.print(render(report))
