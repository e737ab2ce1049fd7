"""`megatron-seed`: the sub-commands of all packages under one name."""

from __future__ import annotations

import sys

import typer
from data_prep.cli import app as data_app

from data_prep.errors import DataError
from megatron_seed.cli import app as training_app
from megatron_seed.errors import SeedError
from tokenizer.cli import app as tokenizer_app
from tokenizer.errors import TokenizerError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Raw code in, Hugging Face model out.")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.registered_commands += training_app.registered_commands
app.registered_groups += training_app.registered_groups


def main() -> None:
    """Run a command; what the user can put right ends in one line and exit code 2, not in a stack trace."""
    try:
        app()
    except (DataError, SeedError, TokenizerError) as error:
        print(f"megatron-seed: {error}", file=sys.stderr)
        sys.exit(2)
