"""`megatron-seed data classify`: text classifiers, trained on labelled documents, measured, and used on a corpus."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.arguments import (
    Corpus,
    CorpusOnDisk,
    Engine,
    EngineOption,
    Set,
    bars,
    engine_of,
    say_failed,
    settings_of,
)

app = typer.Typer(no_args_is_help=True, help="Text classifiers: recall of code or math pages, categories of sites.")

Model = Annotated[Path, typer.Argument(help="Folder of the classifier.", file_okay=False)]
Config = Annotated[
    Path | None, typer.Option(help="YAML file: labels, positive, recall, split, text, model.", dir_okay=False)
]
Threads = Annotated[int, typer.Option(min=1, help="Threads that look up labels.")]


@app.command()
def train(corpus: CorpusOnDisk, model: Model, config: Config = None, set_: Set = None, workers: Threads = 2) -> None:
    """Train a classifier, and measure it on sites that it has not seen."""
    from data_prep.classify.settings import load_config
    from data_prep.classify.train import REPORT, train_classifier

    started = time.process_time()
    about = train_classifier(corpus, model, load_config(config, settings_of(set_)), workers)
    if not about["made_now"]:
        typer.echo(f"{model}: up to date")
    used = time.process_time() - started
    counts = about["documents"]
    left = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts["left_out"].items() if count)
    trained = ", ".join(f"{label} {count:,}" for label, count in counts["sides"]["train"].items())
    typer.echo(
        f"{model}: trained on {trained}{f' (left out: {left})' if left else ''}; "
        f"{about['model']['size_bytes'] / 1e6:,.1f} MB" + (f", {used:,.0f} CPU-seconds" if about["made_now"] else "")
    )
    _say(about, model.with_name(f"{model.name}.{REPORT}"))


@app.command()
def apply(
    corpus: Corpus,
    model: Model,
    annotation: Annotated[str, typer.Option(help="What the annotation is called, such as code_page.")],
    timeout_s: Annotated[float, typer.Option(min=0.001, help="For a batch of documents.")] = 20.0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Documents classified at once.")] = 256,
    retry_failed: Annotated[bool, typer.Option(help="Make shards again in which documents failed.")] = False,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Classify every document of a corpus: columns label, probability and, where one is to be found, recalled."""
    from data_prep.annotate import IsolationLimits
    from data_prep.classify.apply import apply_classifier

    limits = IsolationLimits(timeout_s=timeout_s, batch_rows=batch_rows)
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        result = apply_classifier(corpus, model, annotation, workers, limits, progress, chosen, retry_failed)
    labels = ", ".join(f"{label} {count:,}" for label, count in result["labels"].items())
    typer.echo(
        f"{corpus}: {annotation}: {result['documents']:,} documents ({result['shards_made']} of {result['shards']} "
        f"shards made now): {labels}"
    )
    if (recalled := result["counts"].get("recalled")) is not None:
        typer.echo(f"  {recalled:,} recalled ({recalled / max(1, result['documents']):.2%})")
    say_failed(result)


@app.command()
def check(
    corpus: CorpusOnDisk,
    model: Model,
    config: Annotated[
        Path | None, typer.Option(help="Where labels come from; default: as in training.", dir_okay=False)
    ] = None,
    set_: Set = None,
    every: Annotated[bool, typer.Option("--all", help="All labelled documents, not the test side only.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: MODEL.check.")] = None,
    workers: Threads = 2,
) -> None:
    """Measure a classifier on labelled documents, of this corpus or of another."""
    from data_prep.classify.settings import load_config
    from data_prep.classify.train import check_classifier

    given = load_config(config, settings_of(set_)) if config or set_ else None
    out = out or model.with_name(f"{model.name}.check")
    _say(check_classifier(corpus, model, out, given, every, workers), out)


def _say(about: dict[str, Any], report: Path) -> None:
    """The numbers of a report, in two lines."""
    measured = about["measured"]
    if found := measured.get("recall", {}).get("test"):
        low, high = found["intervals"]["recall"]
        typer.echo(
            f"  {about['positive']}: recall {found['recall']:.2%} ({low:.2%} to {high:.2%}), precision "
            f"{found['precision']:.2%} at a base rate of {found['base_rate']:.2%}, on {found['documents']:,} documents "
            f"of {found['sites']:,} sites; threshold {about['threshold']:.6f}"
        )
    else:
        found = measured["test"].get("by_site", measured["test"])
        what = "sites" if "by_site" in measured["test"] else "documents"
        typer.echo(
            f"  accuracy {found['accuracy']:.2%} on {found['documents']:,} {what} (always the most common label: "
            f"{found['majority']:.2%})"
        )
    typer.echo(f"  {report / 'report.html'}")
