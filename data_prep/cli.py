"""`megatron-seed data`: the steps from raw code to token files, one command each."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.arguments import (
    Corpus,
    Engine,
    EngineOption,
    Selection,
    Set,
    bars,
    engine_of,
    folder,
    pair,
    pairs,
    say_drops,
    say_failed,
    settings_of,
)
from data_prep.classify.command import app as classify_app
from data_prep.commits.command import commits
from data_prep.inspect.command import inspect
from data_prep.mixtures.command import mixtures
from data_prep.needle.command import needle
from data_prep.oracle.command import app as oracle_app
from data_prep.repositories.command import repositories
from data_prep.scorer.command import app as score_app
from data_prep.subset.command import subset
from data_prep.web.command import web

app = typer.Typer(no_args_is_help=True, help="Raw code to documents, selections and token files.")
app.add_typer(classify_app, name="classify")
app.add_typer(oracle_app, name="oracle")
app.add_typer(score_app, name="score")
app.command()(commits)
app.command()(mixtures)
app.command()(needle)
app.command()(repositories)
app.command()(web)
app.command()(subset)


Workers = Annotated[int, typer.Option(min=1, help="Processes.")]


@app.command("import")
def import_(
    corpus: Corpus,
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, Git repositories or tables, or s3:// URLs; NAME=PATH names one."),
    ] = None,
    kind: Annotated[str, typer.Option(help="auto, folders, folder, git, jsonl or parquet.")] = "auto",
    max_file_bytes: Annotated[int, typer.Option(min=1, help="Longer files are dropped.")] = 1 << 20,
    max_total_bytes: Annotated[int | None, typer.Option(min=1, help="Take at most this much.")] = None,
    shard_bytes: Annotated[int, typer.Option(min=1, help="Text per documents shard.")] = 64 << 20,
    remove: Annotated[list[str] | None, typer.Option(help="Take this source out of the corpus.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Workers = 2,
) -> None:
    """Bring a corpus up to date with its sources."""
    from data_prep.importing import ImportLimits, SourceSpec, import_documents
    from data_prep.sources.plan import default_name, named

    specs = []
    for name, path in map(named, sources or []):
        specs.append(SourceSpec(kind, path, default_name(path) if name is None else name))
    limits = ImportLimits(max_file_bytes=max_file_bytes, max_total_bytes=max_total_bytes, shard_bytes=shard_bytes)
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        report = import_documents(specs, corpus, limits, workers, progress, chosen, remove or ())
    typer.echo(
        f"{corpus}: {report.documents:,} documents, {report.text_bytes / 1e6:,.2f} MB of text, {report.shards} shards "
        f"({report.units_made} of {report.units} parts imported now)"
    )
    say_drops(report.drops)


@app.command()
def dedup(
    corpus: Corpus,
    exact: Annotated[bool, typer.Option("--exact", help="Equal files and repositories.")] = False,
    near: Annotated[bool, typer.Option("--near", help="Near-equal files.")] = False,
    repositories: Annotated[bool, typer.Option("--repositories", help="Near-equal repositories.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file: threshold and so on.", dir_okay=False)] = None,
    set_: Set = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Jaccard similarity of near-equal files.")
    ] = None,
    repository_threshold: Annotated[float | None, typer.Option(min=0, max=1, help="And of repositories.")] = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Of global steps; default: by documents.")] = None,
    rekey: Annotated[bool, typer.Option("--rekey", help="Choose anew what is kept.")] = False,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Workers = 2,
) -> None:
    """Find exact and near duplicates of files and of repositories: all of them, or only those asked for."""
    from data_prep.dedup.levels import LEVELS, deduplicate, describe
    from data_prep.dedup.settings import load_settings

    asked = dict(zip(LEVELS, (exact, near, repositories), strict=True))
    levels = [level for level, wanted in asked.items() if wanted] or LEVELS
    given = {"threshold": threshold, "repository_threshold": repository_threshold}
    named = {key: value for key, value in given.items() if value is not None}
    settings = load_settings(config, settings_of(set_) | named)
    chosen = engine_of(engine, engine_option, workers, corpus) if engine != "local" or engine_option else None
    with bars() as progress:
        found = deduplicate(corpus, workers, progress, levels, settings, partitions, rekey, chosen)
    first, *more = describe(found)
    typer.echo("\n".join([f"{corpus}: {first}", *more]))


@app.command()
def annotate(
    corpus: Corpus,
    names: Annotated[
        list[str],
        typer.Argument(
            help="syntax, signs, licence, secrets, decontamination, page, blocklist, quality, imports, structure; "
            "or your own as module:object."
        ),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, or NAME.KEY=VALUE where there are several.")
    ] = None,
    benchmarks: Annotated[
        list[Path] | None, typer.Option(help="JSONL file, or folder of them, for decontamination.", exists=True)
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="For a document, and for a batch.")] = 20.0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Documents given to an annotator at once.")] = 256,
    retry_failed: Annotated[bool, typer.Option(help="Make shards again in which documents failed.")] = False,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Workers = 2,
) -> None:
    """Say something about every document: syntax, licence, secrets, benchmark problems, or what you like."""
    from data_prep.annotate import IsolationLimits
    from data_prep.annotate import annotate as run
    from data_prep.annotators.base import specs_of

    pairs = [pair(entry, "--set") for entry in set_ or []]
    if benchmarks:
        pairs.append(("decontamination.benchmarks", json.dumps([str(path.resolve()) for path in benchmarks])))
    specs = specs_of(names, pairs, Path.cwd())
    limits = IsolationLimits(timeout_s=timeout_s, batch_rows=batch_rows)
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        results = run(corpus, specs, workers, limits, progress, chosen, retry_failed)
    for result in results:
        counts = ", ".join(f"{column} {count:,}" for column, count in result["counts"].items()) or "done"
        typer.echo(
            f"{corpus}: {result['annotator']['name']}: {result['documents']:,} documents: {counts} "
            f"({result['shards_made']} of {result['shards']} shards made now)"
        )
        say_failed(result)


@app.command()
def select(
    corpus: Corpus,
    selection: Selection = "main",
    config: Annotated[Path | None, typer.Option(help="YAML file: rules, languages, held_out.", dir_okay=False)] = None,
    set_: Set = None,
    variant: Annotated[str | None, typer.Option(help="file (default) or repository: what duplicates are.")] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SQL, or NAME=module:function: a further rule; drops where it is true."),
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Keep this language; may be given again.")] = None,
    held_out: Annotated[float | None, typer.Option(min=0, max=1, help="Fraction of repositories to hold out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the held-out hash.")] = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Of global steps; default: by documents.")] = None,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Workers = 2,
) -> None:
    """Decide which documents are trained on and which are held out."""
    from data_prep.select import describe, load_config
    from data_prep.select import select as run
    from data_prep.selection.rules import rule_of

    overrides: dict[str, Any] = {}
    if variant:
        overrides["variant"] = variant
    if rule:
        overrides["rules"] = [rule_of(*pair(entry, "--rule")) for entry in rule]
    if language:
        overrides["languages"] = language
    split = {"fraction": held_out, "seed": seed}
    if given := {key: value for key, value in split.items() if value is not None}:
        overrides["held_out"] = given
    asked, folder = load_config(config, overrides, settings_of(set_)), Path.cwd()
    chosen = engine_of(engine, engine_option, workers, corpus) if engine != "local" or engine_option else None
    with bars() as progress:
        result = run(corpus, selection, asked, progress, workers, engine=chosen, folder=folder, partitions=partitions)
    first, *more = describe(result)
    typer.echo("\n".join([f"{corpus}: {first}", *more]))


@app.command()
def tokenizer(
    corpus: Corpus,
    out: Annotated[Path, typer.Argument(help="Folder of the tokenizer.", file_okay=False)],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special tokens included.")],
    selection: Selection = "main",
    kind: Annotated[str, typer.Option(help="sentencepiece or byte_bpe.")] = "sentencepiece",
    max_chars: Annotated[int, typer.Option(min=0, help="Characters used of all texts; 0 for all.")] = 400_000_000,
    special: Annotated[list[str] | None, typer.Option(help="A group of further special tokens: commits.")] = None,
    seed: Annotated[int, typer.Option(help="Keys the choice of texts.")] = 1234,
) -> None:
    """Train a tokenizer on what a selection trains on, and on nothing that it holds out."""
    from data_prep.select import read_selection
    from data_prep.texts import selected_texts
    from tokenizer.train import TrainSettings, train

    settings = TrainSettings(vocab_size, kind, max_chars=max_chars or None, seed=seed, special=tuple(special or ()))
    read_selection(corpus, selection)
    with bars() as progress:
        description = train(selected_texts(corpus, selection, "train"), out, settings, progress)
    typer.echo(f"{out}: {description['kind']}, {description['vocab_size']:,} ids")


@app.command()
def build(
    corpus: Corpus,
    out: Annotated[
        Path, typer.Argument(help="Folder for the token files, or s3:// URL.", parser=folder, metavar="OUT")
    ],
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer folder or tokenizer.json.", exists=True)],
    selection: Selection = "main",
    split: Annotated[str, typer.Option(help="train or held_out.")] = "train",
    fim_rate: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="One build per rate; default 0.5, held out 0.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="One build for each epoch.")] = 1,
    seed: Annotated[int, typer.Option(help="Of fill-in-the-middle.")] = 1234,
    role: Annotated[list[str] | None, typer.Option(help="ROLE=TOKEN of a tokenizer that is not ours.")] = None,
    loss: Annotated[str, typer.Option(help="all tokens, or the target of documents that have one.")] = "all",
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Workers = 2,
) -> None:
    """Write token files (.bin/.idx) of a selection."""
    from data_prep.build import build as run

    roles = pairs(role, "--role") or None
    chosen = engine_of(engine, engine_option, workers, out)
    with bars() as progress:
        manifests = run(
            corpus,
            selection,
            tokenizer,
            out,
            split,
            fim_rate or [0.5 if split == "train" else 0.0],
            range(epochs),
            seed,
            workers,
            roles,
            progress,
            chosen,
            loss,
        )
    for manifest in manifests:
        counted = f", loss on {manifest['loss']['tokens']:,} of them" if "loss" in manifest else ""
        typer.echo(
            f"{out / manifest['name']}: {manifest['documents']:,} documents, {manifest['tokens']:,} tokens "
            f"of {manifest['size_bytes'] / 1e6:,.2f} MB of text{counted}"
        )


@app.command()
def report(
    corpus: Corpus,
    selection: Annotated[str | None, typer.Option(help="Name of a selection; default: the only one.")] = None,
    out: Annotated[Path, typer.Option(help="Page to write.", dir_okay=False)] = Path("report.html"),
    examples: Annotated[int, typer.Option(min=0, help="Documents shown for each rule and score.")] = 3,
    seed: Annotated[int, typer.Option(help="Which examples are drawn.")] = 1,
    score: Annotated[
        list[str] | None, typer.Option(help="annotation.column to show as a score; default: what rules judge.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Write a page about a corpus: what it holds, what was dropped and why, scores and samples."""
    from data_prep.report.page import write_report

    write_report(corpus, out, selection, examples, seed, workers, score or ())
    typer.echo(f"{out}: report of {corpus}")


app.command()(inspect)
