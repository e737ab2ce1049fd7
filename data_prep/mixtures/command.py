"""`megatron-seed data mixtures`: the `blend:` of each phase."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import Set, folder, settings_of, wide_console
from data_prep.errors import DataError


def mixtures(
    config: Annotated[Path, typer.Argument(help="YAML file: categories and phases.", dir_okay=False, exists=True)],
    out: Annotated[
        Path, typer.Argument(help="Folder for PHASE/blend.yaml and mixtures.json.", parser=folder, metavar="OUT")
    ],
    set_: Set = None,
    check_documents: Annotated[
        bool, typer.Option("--check-documents", help="Count documents that two categories share, by their ids.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that count them.")] = 2,
) -> None:
    """Compute the blend of each phase from the builds' tokens and the epochs and shares that are wanted."""
    from data_prep.mixtures.builds import find_builds
    from data_prep.mixtures.overlap import check_overlaps, describe
    from data_prep.mixtures.plan import plan
    from data_prep.mixtures.settings import load_config
    from data_prep.mixtures.write import table_of, write_plan

    settings = load_config(config, settings_of(set_))
    found = {name: find_builds(name, category.builds) for name, category in settings.categories.items()}
    planned = plan(settings, found)
    wide_console().print(table_of(planned))
    if planned.problems:
        raise DataError("; ".join(planned.problems))
    for phase in planned.phases:
        for note in phase.notes:
            typer.echo(f"{phase.name}: {note}")
    if check_documents:
        for line in describe(check_overlaps(planned, out, workers)):
            typer.echo(line)
    for phase, path in zip(planned.phases, write_plan(out, settings, planned), strict=True):
        typer.echo(f"{path}: phases.{phase.name}.blend={path} phases.{phase.name}.tokens={phase.tokens}")
