"""`megatron-seed data oracle`: have a large model rate a sample, or take ratings that are there already."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_prep.arguments import CorpusOnDisk, Set, bars, settings_of

if TYPE_CHECKING:
    from data_prep.oracle.settings import OracleSettings

app = typer.Typer(
    no_args_is_help=True, help="Ratings or labels of a sample by a large model: asked for, imported, compared."
)

Name = Annotated[str, typer.Argument(help="What to call these scores.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file: prompt, sample, request, endpoint, cost, keep_explanations.", dir_okay=False),
]
Url = Annotated[str | None, typer.Option(help="Endpoint, such as http://127.0.0.1:8000/v1.")]
Model = Annotated[str | None, typer.Option(help="As the endpoint calls it.")]
Prompt = Annotated[
    str | None, typer.Option(help="Shipped prompt (code_quality, web, site_category, ...) or a YAML file.")
]
Files = Annotated[int | None, typer.Option(min=1, help="Sample so many; default: a tenth, at most 222,066.")]
Seed = Annotated[int | None, typer.Option(help="Of the sample.")]
Selection = Annotated[str | None, typer.Option(help="Sample what this selection leaves.")]
MaxTokens = Annotated[int | None, typer.Option(min=16, help="Of an answer; default 1,024.")]
PriceIn = Annotated[float | None, typer.Option(min=0, help="For a million tokens sent.")]
PriceOut = Annotated[float | None, typer.Option(min=0, help="For a million tokens answered.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Stop before these answers cost more in all.")]
Tokenizer = Annotated[Path | None, typer.Option(help="Tokenizer folder or tokenizer.json, to estimate by.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that draw the sample.")]


def _settings(
    config: Path | None, changes: list[str] | None, prompt: str | None = None, **sections: dict[str, Any]
) -> "OracleSettings":
    from data_prep.oracle.settings import given, load_settings
    from data_prep.settings import merged

    return load_settings(config, merged(settings_of(changes), given({"prompt": prompt, **sections})))


@app.command("estimate")
def estimate_command(
    corpus: CorpusOnDisk,
    name: Name,
    config: Config = None,
    set_: Set = None,
    url: Url = None,
    model: Model = None,
    prompt: Prompt = None,
    files: Files = None,
    seed: Seed = None,
    selection: Selection = None,
    max_tokens: MaxTokens = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    max_cost: MaxCost = None,
    tokenizer: Tokenizer = None,
    workers: Workers = 2,
) -> None:
    """Draw the sample and say how many requests and tokens it takes and what they cost. Asks nothing."""
    from data_prep.oracle.plan import describe
    from data_prep.oracle.run import estimate_run

    settings = _settings(
        config,
        set_,
        prompt,
        sample={"files": files, "seed": seed, "selection": selection},
        request={"model": model, "max_tokens": max_tokens},
        endpoint={"url": url},
        cost={"price_in": price_in, "price_out": price_out, "max_cost": max_cost, "tokenizer": tokenizer},
    )
    lines = describe(estimate_run(corpus, name, settings, workers))
    typer.echo("\n  ".join([f"{corpus}: oracle {name}: {lines[0]}", *lines[1:]]))


@app.command()
def run(
    corpus: CorpusOnDisk,
    name: Name,
    config: Config = None,
    set_: Set = None,
    url: Url = None,
    model: Model = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the key.")] = None,
    prompt: Prompt = None,
    files: Files = None,
    seed: Seed = None,
    selection: Selection = None,
    max_tokens: MaxTokens = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests under way at once; default 16.")] = None,
    timeout_s: Annotated[float | None, typer.Option(min=0.001, help="For a request; default 180.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="For each file; default 6.")] = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    max_cost: MaxCost = None,
    tokenizer: Tokenizer = None,
    keep_explanations: Annotated[bool, typer.Option("--keep-explanations", help="Keep whole answers.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Ask again where an answer gave no score.")] = False,
    workers: Workers = 2,
) -> None:
    """Have a sample rated; what was answered before is not asked again."""
    from data_prep.oracle.plan import describe
    from data_prep.oracle.run import run_oracle

    settings = _settings(
        config,
        set_,
        prompt,
        sample={"files": files, "seed": seed, "selection": selection},
        request={"model": model, "max_tokens": max_tokens},
        endpoint={
            "url": url,
            "api_key_env": api_key_env,
            "concurrency": concurrency,
            "timeout_s": timeout_s,
            "attempts": attempts,
        },
        cost={"price_in": price_in, "price_out": price_out, "max_cost": max_cost, "tokenizer": tokenizer},
        keep_explanations=keep_explanations or None,
    )

    def tell(estimate: dict[str, Any]) -> None:
        for line in describe(estimate):
            typer.echo(f"  {line}", err=True)

    with bars() as progress:
        manifest = run_oracle(corpus, name, settings, progress, workers, again, tell)
    typer.echo(f"{corpus}: oracle {name}: " + "\n  ".join(_said(manifest)))


@app.command("import")
def import_(
    corpus: CorpusOnDisk,
    name: Name,
    table: Annotated[Path, typer.Argument(help="Parquet with id or sha256, and score.", dir_okay=False)],
    score_column: Annotated[str, typer.Option(help="Column that holds the scores.")] = "score",
    out_of: Annotated[float, typer.Option(min=0, help="The best possible score; 1 for scores from 0 to 1.")] = 10.0,
    model: Annotated[str | None, typer.Option(help="Who gave them.")] = None,
    prompt_version: Annotated[str | None, typer.Option(help="How they were asked for.")] = None,
    workers: Workers = 2,
) -> None:
    """Take scores that are there already."""
    from data_prep.oracle.import_scores import ImportedTable, import_scores

    manifest = import_scores(corpus, name, ImportedTable(table, score_column, out_of, model, prompt_version), workers)
    typer.echo(f"{corpus}: oracle {name}: " + "\n  ".join(_said(manifest)))
    if not any(manifest["histogram"][2:]):
        typer.echo("  no score is above 1: if 1 is the best there is, import them again with --out-of 1")
    for why, rows in manifest["unused"].items():
        typer.echo(f"  left out {rows['rows']:,} rows ({why}), such as {rows['examples'][0]}")


@app.command()
def compare(
    corpus: CorpusOnDisk,
    names: Annotated[list[str], typer.Argument(help="Oracles, two or more.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder; default CORPUS/oracle/_comparison.", file_okay=False)
    ] = None,
) -> None:
    """Say how far oracles agree, and draw it."""
    from data_prep.oracle.compare import compare_oracles
    from data_prep.oracle.comparison_page import write_comparison

    found = compare_oracles(corpus, names)
    page = write_comparison(found, out or corpus / "oracle" / "_comparison")
    for pair in found["pairs"]:
        rank = "-" if pair["spearman"] is None else f"{pair['spearman']:.3f}"
        typer.echo(
            f"{pair['first']} and {pair['second']}: {pair['files']:,} files, {pair['exact']:.1%} equal, "
            f"{pair['within_1']:.1%} within 1, Spearman {rank}, mean difference {pair['mae']:.2f} "
            f"({pair['second']} gives {pair['bias']:+.2f})"
        )
    typer.echo(f"{page}")


@app.command("prompt")
def prompt_command(
    prompt: Annotated[str, typer.Argument(help="Shipped prompt or a YAML file.")] = "code_quality",
) -> None:
    """Show a prompt as it is kept with scores."""
    from data_prep.oracle.prompt import load_prompt

    found = load_prompt(prompt)
    typer.echo(f"{found.label}, documents of up to {found.max_text_bytes:,} bytes whole\n")
    if found.system:
        typer.echo(f"{found.system}\n")
    typer.echo(found.template)


def _said(manifest: dict[str, Any]) -> list[str]:
    """A manifest of scores as lines."""
    from data_prep.oracle.plan import money

    asked_for = "label" if "labels" in manifest else "score"
    done = "labelled" if asked_for == "label" else "scored"
    lines = [f"{manifest['scored']:,} of {manifest['rows']:,} files {done}"]
    if "asked_now" in manifest:
        lines[0] += f" ({manifest['asked_now']:,} answers came now, {manifest['retries_now']:,} retries)"
    if manifest.get("cost") is not None:
        lines.append(f"cost {money(manifest['cost'])} in all")
    if manifest.get("stopped_by_max_cost"):
        lines.append("stopped by --max-cost: the next request could have exceeded it")
    if asked_for == "label":
        lines.append("labels: " + ", ".join(f"{label} {count:,}" for label, count in manifest["labels"].items()))
    else:
        lines.append("scores 0 to 10: " + ", ".join(f"{count:,}" for count in manifest["histogram"]))
    for problem, count in manifest["problems"].items():
        example = next(iter(manifest.get("examples", {}).get(problem, [])), None)
        said = f", such as {example['path']}: {' '.join(example['said'].split())[:120]}" if example else ""
        lines.append(f"no {asked_for} for {count:,} ({problem}){said}")
    if manifest.get("files_with_ratings", {}).get("files"):
        found = manifest["files_with_ratings"]
        lines.append(f"{found['files']:,} files hold an answer themselves, such as {found['examples'][0]}")
    if manifest.get("damaged_answers"):
        lines.append(f"{manifest['damaged_answers']:,} damaged lines among the stored answers were left out")
    return lines
