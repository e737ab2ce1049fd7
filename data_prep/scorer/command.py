"""`megatron-seed data score`: train a scorer on an oracle's scores, score a corpus with it, say how well it does."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from data_prep.arguments import CorpusOnDisk, Engine, EngineOption, Set, bars, engine_of, say_failed, settings_of

app = typer.Typer(no_args_is_help=True, help="Scorers: trained on an oracle's scores, used on every file, measured.")

_TIMEOUT_S = {"linear": 20.0, "llama": 600.0}


@app.command()
def train(
    corpus: CorpusOnDisk,
    oracle: Annotated[str, typer.Argument(help="Name of the oracle's scores.")],
    out: Annotated[Path, typer.Argument(help="Folder of the scorer.", file_okay=False)],
    kind: Annotated[str, typer.Option(help="linear (CPU) or llama (a pretrained model).")] = "linear",
    checkpoint: Annotated[
        Path | None, typer.Option(help="For llama: pretrained checkpoint or run folder.", exists=True)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="For llama: of a checkpoint that carries none.", exists=True)
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="For llama: processes to train on.")] = 1,
    set_: Set = None,
    held_out: Annotated[float, typer.Option(min=0, max=1, help="Share of repositories to measure on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the held-out hash.")] = 1234,
) -> None:
    """Train a scorer, and measure it on repositories that it has not seen."""
    from data_prep.scorer.train import MEASURED, train_scorer

    about = train_scorer(corpus, oracle, out, kind, settings_of(set_), held_out, seed, checkpoint, tokenizer, processes)
    left = ", ".join(f"{count:,} {reason}" for reason, count in about["left_out"].items() if count)
    typer.echo(
        f"{out}: {kind}, trained on {about['trained_on']['files']:,} files{f' ({left} left out)' if left else ''}"
    )
    _say(out.with_name(f"{out.name}.{MEASURED}"))


@app.command()
def apply(
    corpus: CorpusOnDisk,
    scorer: Annotated[str, typer.Argument(help="Folder of a scorer, or your own module:function.")],
    annotation: Annotated[
        str, typer.Option(help="What to call it; two scorers of a corpus need two names.")
    ] = "quality",
    timeout_s: Annotated[
        float | None, typer.Option(min=0.001, help="For a batch of files; default 20, for llama 600.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Files given to the scorer at once.")] = 256,
    retry_failed: Annotated[bool, typer.Option(help="Make shards again in which files failed.")] = False,
    engine: Engine = "local",
    engine_option: EngineOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes a GPU where there are any.")] = 2,
) -> None:
    """Score every file of a corpus: the annotation `quality`, or what it is to be called; column `score`."""
    from data_prep.annotate import IsolationLimits, annotate
    from data_prep.scorer.base import describe_scorer
    from data_prep.scorer.quality import quality_spec

    kind, place = "linear", {"scorer": scorer, "module_folder": str(Path.cwd())}
    if ":" not in scorer:
        kind, place = describe_scorer(Path(scorer))["kind"], {"scorer": str(Path(scorer).resolve())}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    limits = IsolationLimits(timeout_s=timeout_s or _TIMEOUT_S[kind], batch_rows=batch_rows)
    chosen = engine_of(engine, engine_option, workers, corpus)
    with bars() as progress:
        spec = quality_spec(corpus, annotation, **place)
        (result,) = annotate(corpus, [spec], workers, limits, progress, chosen, retry_failed)
    typer.echo(
        f"{corpus}: {annotation}: {result['documents']:,} files scored "
        f"({result['shards_made']} of {result['shards']} shards made now)"
    )
    say_failed(result)


@app.command()
def report(
    corpus: CorpusOnDisk,
    scorer: Annotated[Path, typer.Argument(help="Folder of a scorer.", file_okay=False)],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: SCORER.report.")] = None,
) -> None:
    """Measure a scorer on the files that were held out when it was trained."""
    from data_prep.scorer.train import MEASURED, report_scorer

    out = out or scorer.with_name(f"{scorer.name}.{MEASURED}")
    report_scorer(corpus, scorer, out)
    _say(out)


def _say(folder: Path) -> None:
    """The numbers of a report, in two lines."""
    measured = json.loads((folder / "report.json").read_bytes())["measured"]
    spearman = "–" if measured["spearman"] is None else f"{measured['spearman']:.3f}"
    typer.echo(
        f"  on {measured['files']:,} held-out files: MAE {measured['mae']:.3f} (mean predictor "
        f"{measured['mean_predictor_mae']:.3f}), by class {measured['class_mae']:.3f}, Spearman {spearman}"
    )
    typer.echo(f"  {folder / 'report.html'}")
