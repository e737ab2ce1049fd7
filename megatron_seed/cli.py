"""Commands of the training stack; heavy imports wait until a command runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from megatron_seed.errors import SeedError
from megatron_seed.runtime.noise import quieten_libraries

app = typer.Typer(no_args_is_help=True)
hf_app = typer.Typer(no_args_is_help=True, help="Convert to and from Hugging Face format.")
app.add_typer(hf_app, name="hf")
ckpt_app = typer.Typer(no_args_is_help=True, help="Look at checkpoints.")
app.add_typer(ckpt_app, name="ckpt")
data_app = typer.Typer(no_args_is_help=True, help="Make builds ready for training; joins the other `data` commands.")

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder, or a run folder for its newest one.")]


class Dtype(Enum):
    """Of exported or imported tensors."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example phases.0.tokens=1e6")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes to start on this machine.")] = 1,
) -> None:
    """Train a recipe, going on from its newest checkpoint. Under torchrun or srun each process runs this itself."""
    from megatron_seed.config.load import load_recipe
    from megatron_seed.config.validate import check_layout
    from megatron_seed.data.held_out import check_data
    from megatron_seed.runtime.groups import read_launch
    from megatron_seed.train.standing import check_start

    under_launcher = read_launch().world_size > 1
    if not under_launcher:
        loaded = load_recipe(recipe, overrides or ())
        check_layout(loaded, processes)
        check_data(loaded)
        check_start(loaded)
        # torchrun would give each process one thread.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    command = [sys.executable, "-m", "megatron_seed.train", recipe, *(overrides or ())]
    if processes > 1 and not under_launcher:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, *command[1:]]
    os.execv(command[0], command)


@hf_app.command("export")
def export_(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint or run folder; with --dry-run also a recipe's or a preset's name.")
    ],
    out: Annotated[Path | None, typer.Argument(help="Folder to make; not needed with --dry-run.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Default: as in the checkpoint.")] = None,
    shard_gb: Annotated[float, typer.Option(min=0.0, help="Largest safetensors file, in GB.")] = 4.0,
    workers: Annotated[int, typer.Option(min=1, help="Files that are written at once.")] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print files, bytes and memory.")] = False,
    force: Annotated[bool, typer.Option(help="Replace a folder that no export of ours made.")] = False,
) -> None:
    """Write a checkpoint as a Hugging Face model."""
    from megatron_seed.checkpoint.layout import resolve
    from megatron_seed.hf.export import export_hf
    from megatron_seed.hf.plan import plan_named

    chosen, shard_bytes = dtype.value if dtype else None, int(shard_gb * 1e9)
    if dry_run:
        typer.echo(plan_named(checkpoint, chosen, shard_bytes).describe(workers))
        return
    if out is None:
        raise SeedError("hf export: name the folder to make, or give --dry-run")
    options = {"dtype": chosen, "max_shard_size_bytes": shard_bytes, "workers": workers, "force": force}
    with _bars() as bars:
        report = export_hf(resolve(Path(checkpoint)), out, progress=bars, **options)
    typer.echo(f"wrote {out}: {report.architecture}, {report.parameters:,} parameters, {report.dtype}")
    if report.spare_rows:
        typer.echo(f"{report.spare_rows} rows of the vocabulary have no token in the tokenizer")


@hf_app.command("import")
def import_(
    hf: Annotated[Path, typer.Argument(help="Hugging Face model folder.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make.")],
    dtype: Annotated[Dtype | None, typer.Option(help="Default: as in the files.")] = None,
    vocab_multiple: Annotated[int, typer.Option(min=1, help="Pad the vocabulary to a multiple of this.")] = 128,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin files too, tensors alone; nothing in them is run.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Replace a folder that no import of ours made.")] = False,
) -> None:
    """Write a Hugging Face model as a checkpoint that any layout loads."""
    from megatron_seed.hf.import_ import import_hf

    options = {"vocab_multiple": vocab_multiple, "allow_pickle": allow_pickle, "force": force}
    with _bars() as bars:
        report = import_hf(hf, out, dtype=dtype.value if dtype else None, progress=bars, **options)
    typer.echo(f"wrote {out}: {report.architecture}, {report.parameters:,} parameters, {report.dtype}")
    for name in report.ignored:
        typer.echo(f"left out {name}: it follows from the rest")


@hf_app.command("verify")
def verify(
    checkpoint: Checkpoint,
    hf: Annotated[Path, typer.Argument(help="Hugging Face model folder.")],
    out: Annotated[Path | None, typer.Option(help="Write what was compared as JSON.")] = None,
) -> None:
    """Prove that a Hugging Face model equals a checkpoint: tensors bit for bit, logits, greedy tokens."""
    from megatron_seed.checkpoint.layout import resolve
    from megatron_seed.checkpoint.manifest import write_text
    from megatron_seed.hf.verify import verify_hf

    quieten_libraries()
    with _bars() as bars:
        report = verify_hf(resolve(checkpoint), hf, progress=bars)
    if not report.ok:
        raise SeedError(f"{hf} is not {checkpoint}: {'; '.join(report.problems)}")
    if out:
        write_text(out, json.dumps(asdict(report), indent=1))
    typer.echo(f"{report.tensors} tensors are equal bit for bit (as {report.dtype})")
    for kind, difference in report.logit_difference.items():
        typer.echo(f"logits of the {kind} prompt differ by {difference:.1e} of the largest")
    for kind, divergence in report.bf16_divergence.items():
        typer.echo(f"in bf16 the {kind} prompt's predictions are {divergence:.1e} nats per token away")
    typer.echo(f"{report.greedy_tokens} greedy tokens are the same")


@ckpt_app.command("verify")
def verify_(
    path: Annotated[Path, typer.Argument(help="A checkpoint folder, or a run folder for all of its checkpoints.")],
) -> None:
    """Hold every file against the digest it was written with; exit code 1 when something is damaged."""
    from megatron_seed.checkpoint.verify import verify as verdicts

    good = True
    for verdict in verdicts(path):
        typer.echo(verdict)
        good = good and not verdict.damage
    if not good:
        raise typer.Exit(1)


@ckpt_app.command("inspect")
def inspect_(checkpoint: Checkpoint) -> None:
    """Print where the run stood, versions, and every tensor: key, shape, dtype, bytes."""
    from megatron_seed.checkpoint.describe import describe
    from megatron_seed.checkpoint.layout import resolve

    for line in describe(resolve(checkpoint)):
        typer.echo(line)


@app.command()
def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[list[str], typer.Argument(help="Text to continue; several are done as one batch.")],
    suffix: Annotated[str | None, typer.Option(help="Fill in between the prompt and this.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this total probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
) -> None:
    """Continue prompts, or fill gaps, with a checkpoint of any layout."""
    from megatron_seed.checkpoint.layout import resolve
    from megatron_seed.generate import Generator

    quieten_libraries()
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    with Generator.load(resolve(checkpoint)) as generator:
        if suffix is None:
            completions = generator.generate(prompt, **options)
        else:
            completions = generator.infill([(text, suffix) for text in prompt], **options)
    for completion in completions:
        typer.echo(completion.text)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the whole job.")] = 8,
    gpu: Annotated[str, typer.Option(help="Their kind: a100, b200, h100, h20 or h200.")] = "h100",
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation, causal, that days are counted at.")] = 0.4,
    mtbf_hours: Annotated[
        float | None, typer.Option(min=0, help="Mean time between failures of one node; default: as Llama 3's.")
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER in place of what is assumed; repeatable.")
    ] = None,
    layouts: Annotated[int, typer.Option(min=1, help="Layouts to show per phase.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON instead.")] = False,
) -> None:
    """Say what a run will need: memory, time, layouts, checkpoints. Needs no GPU and no data."""
    from megatron_seed.plan.command import plan_command

    changes = [*(assume or ()), *([f"mtbf_node_hours={mtbf_hours}"] if mtbf_hours is not None else [])]
    plan_command(recipe, overrides or (), gpus, gpu, mfu, changes, layouts, as_json=as_json)


@app.command()
def trace(
    run_dir: Annotated[Path, typer.Argument(help="Run folder.")],
    step: Annotated[int, typer.Option(min=1, help="Which step.")],
    rank: Annotated[int | None, typer.Option(min=0, help="Only this data-parallel rank's samples.")] = None,
) -> None:
    """Print which documents made up a step: sample, source of the blend, epoch, source, repository, path, tokens."""
    from megatron_seed.trace import trace_step

    for piece in trace_step(run_dir, step, rank):
        known = f"{piece.source}\t{piece.repository}\t{piece.path}"
        place = known if piece.path is not None else f"\t\tdocument {piece.document}"
        fim = "infilling" if piece.fim else ""
        span = f"{piece.first_token}-{piece.first_token + piece.tokens}"
        typer.echo(f"{piece.sample}\t{piece.blend_source}\tepoch {piece.epoch}\t{place}\t{span}\t{fim}".rstrip())


@data_app.command()
def declare(
    prefixes: Annotated[
        list[Path], typer.Argument(help="Builds, by prefix or by one of their files.", metavar="PREFIX...")
    ],
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer that made them.", exists=True)] = None,
    vocab_size: Annotated[
        int | None, typer.Option(min=1, help="Where only ids are known: they are below this.")
    ] = None,
    fim: Annotated[float, typer.Option(min=0, max=1, help="Fill-in-the-middle rate they were made with.")] = 0.0,
    force: Annotated[bool, typer.Option(help="Replace manifests that say something else.")] = False,
) -> None:
    """Take in builds that were made elsewhere: check every id against the vocabulary, write a manifest beside each."""
    from megatron_seed.data.declare import Vocabulary
    from megatron_seed.data.declare import declare as run

    if (tokenizer is None) == (vocab_size is None):
        raise SeedError("data declare: give either --tokenizer DIRECTORY or, where only ids are known, --vocab-size N")
    vocabulary = Vocabulary.of_tokenizer(tokenizer) if tokenizer else Vocabulary.of_size(vocab_size)
    named = [path.with_suffix("") if path.suffix in (".bin", ".idx") else path for path in prefixes]
    with _bars() as bars:
        manifests = run(named, vocabulary, fim, force, bars)
    for prefix, manifest in zip(dict.fromkeys(named), manifests, strict=True):
        typer.echo(f"{prefix}: {manifest['documents']:,} documents, {manifest['tokens']:,} tokens")


@data_app.command("verify")
def verify_builds(
    prefixes: Annotated[
        list[Path], typer.Argument(help="Builds, by prefix or by one of their files.", metavar="PREFIX...")
    ],
) -> None:
    """Hold every byte of builds against their manifests; exit code 1 when something is damaged."""
    from megatron_seed.data.verify import find_damage

    named = list(dict.fromkeys(path.with_suffix("") if path.suffix in (".bin", ".idx") else path for path in prefixes))
    binaries = [path for path in (Path(f"{prefix}.bin") for prefix in named) if path.is_file()]
    damaged = 0
    with _bars() as bars:
        task = bars.add_task("reading tokens", total=sum(path.stat().st_size for path in binaries))
        for prefix in named:
            damage = find_damage(prefix, lambda size_bytes: bars.advance(task, size_bytes))
            damaged += damage is not None
            typer.echo(f"{prefix}: good" if damage is None else f"damaged: {damage}")
    raise typer.Exit(1 if damaged else 0)


@data_app.command()
def index(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
) -> None:
    """Make the document orders of large builds before a run needs them."""
    from megatron_seed.config.load import load_recipe
    from megatron_seed.data.order import build_orders
    from megatron_seed.train.standing import reading_of

    loaded = load_recipe(recipe, overrides or ())
    with _bars() as bars:
        orders = build_orders(loaded, bars, reading=reading_of(loaded))
    typer.echo(f"{loaded.order_cache}: {orders.made} document orders made, {orders.present} were there")


@contextmanager
def _bars() -> Iterator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars
