"""`megatron-seed`: the sub-commands of all packages under one name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import wide_console
from data_prep.cli import app as data_app
from data_prep.errors import DataError
from launch.quickstart_command import quickstart
from launch.sample import sample
from launch.slurm.cli import app as slurm_app
from megatron_seed.cli import app as training_app
from megatron_seed.cli import data_app as builds_app
from megatron_seed.errors import SeedError
from tokenizer.cli import app as tokenizer_app
from tokenizer.errors import TokenizerError

"""Characters of a table that goes to no terminal."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw code in, Hugging Face model out.",
)
data_app.registered_commands += builds_app.registered_commands
data_app.command()(sample)
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(slurm_app, name="launch")


app.command()(quickstart)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("compare.html"),
) -> None:
    """Show runs side by side: settings that differ, curves by tokens and by FLOPs, last numbers, events."""
    from launch.compare import compare_command

    compare_command(runs, out, wide_console())


app.registered_commands += training_app.registered_commands
app.registered_groups += training_app.registered_groups


def main() -> None:
    """Run a command; what the user can put right ends in one line and exit code 2, not in a stack trace."""
    try:
        app()
    except (DataError, SeedError, TokenizerError) as error:
        print(f"megatron-seed: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"megatron-seed: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "botocore":  # no credentials, no connection, no such bucket
            raise
        print(f"megatron-seed: object store: {error}", file=sys.stderr)
        sys.exit(2)
