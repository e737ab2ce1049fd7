"""`megatron-seed data needle`: the needle-in-the-code data set."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import Corpus, Engine, EngineOption, Selection, Set, bars, engine_of, folder, settings_of


def needle(
    corpus: Corpus,
    out: Annotated[Path, typer.Argument(help="Folder to write.", parser=folder, metavar="OUT")],
    tokenizer: Annotated[Path, typer.Option(help="Whose tokens lengths are counted in.", exists=True)],
    selection: Selection = "main",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.", dir_okay=False)] = None,
    set_: Set = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write prompts that ask for a value in a long context of held-out code, on a grid of lengths and depths."""
    from data_prep.needle.run import describe, write_needles
    from data_prep.needle.settings import NeedleSettings
    from data_prep.settings import load_settings

    settings = load_settings(NeedleSettings, "needle", config, settings_of(set_))
    place = engine_of(engine, engine_option, workers, out)
    with bars() as progress:
        about = write_needles(corpus, out, selection, tokenizer, settings, workers, progress, place)
    first, *more = describe(about)
    typer.echo("\n".join([f"{out}: {first}", *more]))
