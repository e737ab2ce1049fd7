"""Commands of the training stack; heavy imports wait until a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
hf_app = typer.Typer(no_args_is_help=True, help="Convert to and from Hugging Face format.")
app.add_typer(hf_app, name="hf")

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder, or a run folder for its newest one.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example phases.0.tokens=1e6")] = None,
    processes: Annotated[int, typer.Option(help="Processes to start on this machine.")] = 1,
) -> None:
    """Train a recipe, going on from its newest checkpoint. Under torchrun or srun each process runs this itself."""
    from megatron_seed.config.load import load_recipe
    from megatron_seed.config.validate import check_layout
    from megatron_seed.runtime.groups import read_launch

    under_launcher = read_launch().world_size > 1
    check_layout(load_recipe(recipe, overrides or ()), read_launch().world_size if under_launcher else processes)
    command = [sys.executable, "-m", "megatron_seed.train", recipe, *(overrides or ())]
    if processes > 1 and not under_launcher:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, *command[1:]]
    os.execv(command[0], command)


@hf_app.command("export")
def export_(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; default: as in the checkpoint.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a folder that no export of ours made.")] = False,
) -> None:
    """Write a checkpoint as a Hugging Face model."""
    from megatron_seed.checkpoint.layout import resolve
    from megatron_seed.hf.export import export_hf

    export_hf(resolve(checkpoint), out, dtype=dtype, force=force)
    typer.echo(f"wrote {out}")


@hf_app.command("import")
def import_(
    hf: Annotated[Path, typer.Argument(help="Hugging Face model folder.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make.")],
) -> None:
    """Write a Hugging Face model as a checkpoint that any layout loads."""
    from megatron_seed.hf.import_ import import_hf

    import_hf(hf, out)
    typer.echo(f"wrote {out}")


@hf_app.command("verify")
def verify(checkpoint: Checkpoint, hf: Annotated[Path, typer.Argument(help="Hugging Face model folder.")]) -> None:
    """Prove that a Hugging Face model equals a checkpoint: tensors bit for bit, logits, greedy tokens."""
    from megatron_seed.checkpoint.layout import resolve
    from megatron_seed.hf.verify import verify_hf

    typer.echo(verify_hf(resolve(checkpoint), hf))
