"""`megatron-seed quickstart`: the whole flow on a small corpus, or with `--full` the report's recipe in miniature."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from megatron_seed.errors import SeedError

_FULL = "Only with --full"


def quickstart(
    full: Annotated[bool, typer.Option("--full", help="All of the report's pretraining.")] = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of repositories; default: this Python's library and packages.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything goes; default runs/quickstart, or runs/quickstart-full.")
    ] = None,
    cap_bytes: Annotated[
        int | None, typer.Option(min=1, help="Take at most this much raw code; default 48 MB, or 24 MB.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Git repository whose commits are learnt from.", rich_help_panel=_FULL)
    ] = None,
    commits: Annotated[
        int | None, typer.Option(min=1, help="At most so many of its newest; default 600.", rich_help_panel=_FULL)
    ] = None,
    pages: Annotated[
        int | None, typer.Option(min=1, help="At most so many web pages; default 1,500.", rich_help_panel=_FULL)
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option(help="Endpoint that rates, such as http://127.0.0.1:8000/v1.", rich_help_panel=_FULL),
    ] = None,
    oracle_model: Annotated[str | None, typer.Option(help="As the endpoint calls it.", rich_help_panel=_FULL)] = None,
    oracle_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds its key.", rich_help_panel=_FULL)
    ] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL file, or folder of them, to decontaminate from.", exists=True, rich_help_panel=_FULL),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value change of the recipe; repeatable.")] = None,
) -> None:
    """Raw code in, Hugging Face model out: the whole flow on a small corpus. Started again, it goes on."""
    common = {"run_dir": run_dir, "corpus": corpus, "cap_bytes": cap_bytes, "overrides": tuple(set_ or ())}
    own = {
        "history": history,
        "commits": commits,
        "pages": pages,
        "oracle_url": oracle,
        "oracle_model": oracle_model,
        "oracle_key_env": oracle_key_env,
        "benchmarks": tuple(benchmarks or ()),
    }
    if full:
        _run_full({**common, **own})
    elif asked := [name for name, value in own.items() if value]:
        raise SeedError(f"--{asked[0].removesuffix('_url').replace('_', '-')} goes with --full")
    else:
        _run_small(common)


def _run_small(values: dict[str, Any]) -> None:
    from launch.quickstart import QuickstartConfig
    from launch.quickstart import quickstart as run
    from launch.summary import print_summary

    console, config = Console(), QuickstartConfig(**_given(values))
    print_summary(run(config, console), config.run_dir, console)


def _run_full(values: dict[str, Any]) -> None:
    from launch.full.run import full
    from launch.full.settings import FullConfig
    from launch.full.summary import print_summary

    if (values["oracle_url"] is None) != (values["oracle_model"] is None):
        raise SeedError("--oracle and --oracle-model belong together: an endpoint, and what it calls its model")
    if values["oracle_key_env"] and values["oracle_url"] is None:
        raise SeedError("--oracle-key-env goes with --oracle: the stand-in needs no key")
    console, config = Console(), FullConfig(**_given(values))
    print_summary(full(config, console), config.run_dir, console)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was not said, for which the defaults hold."""
    return {key: value for key, value in values.items() if value is not None}
