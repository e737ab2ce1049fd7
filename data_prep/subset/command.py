"""`megatron-seed data subset`: a high-quality subset, found in rounds of fastText recall."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import CorpusOnDisk, Engine, EngineOption, Set, bars, engine_of, settings_of


def subset(
    corpus: CorpusOnDisk,
    config: Annotated[Path, typer.Option(help="YAML file: sources, rounds and so on.", exists=True, dir_okay=False)],
    set_: Set = None,
    name: Annotated[str, typer.Option(help="Of the subset and of its annotation.")] = "high_quality",
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Find documents like chosen seeds, in rounds: an annotation to select by, and a report of every round."""
    from data_prep.subset.page import describe
    from data_prep.subset.run import find_subset, subset_directory
    from data_prep.subset.settings import load_config

    settings = load_config(config, settings_of(set_))
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        report = find_subset(corpus, settings, name, workers, progress, chosen)
    first, *more = describe(report)
    typer.echo("\n".join([f"{corpus}: {first}", *more]))
    typer.echo(f"  {subset_directory(corpus, name) / 'report.html'}")
