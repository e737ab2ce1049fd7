"""The page of `quickstart --full`: a section for each step of the report, no script, nothing loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.classify.page import curve_chart
from data_prep.report.environment import environment, parts
from data_prep.report.formats import count, decimal, shortened
from data_prep.report.tiles import Tile
from data_prep.shards import write_atomic
from data_prep.subset.page import source_charts
from launch.full import commits, github, math_web, web
from launch.full.report.charts import held_out_chart, loss_chart
from launch.full.report.examples import infilling_example, page_before_and_after
from launch.full.report.facts import corpus_facts, site_kinds, write_corpus_pages
from launch.full.settings import FullConfig
from launch.report.summary import layout, model_facts, mood, proof

TOP = 8
_GIVEN = (500, 250)
"""Characters that are shown of what a model is given, of its beginning and of its end."""
_QUALITY = ("oracle", "scorer", "scores", "selection")
_CHAPTERS = {
    "github": ("packages", "github", *(f"github {stage}" for stage in _QUALITY)),
    "commits": ("history", "commits"),
    "web": ("pages", "web", *(f"web {stage}" for stage in ("recall", "categories", "candidates", *_QUALITY))),
    "math_web": tuple(f"math {stage}" for stage in ("recall", "candidates", *_QUALITY)),
    "subset": ("high quality",),
    "long_context": ("long context", "long files"),
    "training": ("tokenizer", "builds", "train"),
    "evaluation": ("needles", "export", "generate"),
}
"""Section of the page -> the stages that are told there."""


def write_report(config: FullConfig, results: dict[str, Any]) -> Path:
    """Writes `report.html` and a page for each corpus into the run folder; returns the first.

    `results`: what the stages returned. Everything else is read from the run folder. Raises `DataError`, `OSError`.
    """
    page = render_page(config, results).encode("utf-8")
    path = config.run_dir / "report.html"
    write_atomic(path, lambda stream: stream.write(page))
    return path


def render_page(config: FullConfig, results: dict[str, Any]) -> str:
    """The page as text. All text in it is taken as untrusted."""
    run = config.run_dir
    code = corpus_facts(0, github.corpus_of(config), github.KEPT, results["github"]["quality"])
    links = write_corpus_pages(run, _corpora(config, results))
    template = environment(Path(__file__).parent).get_template("full.html.j2")
    page = template.render(
        results=results,
        tiles=_tiles(results),
        code=code,
        matches=parts((code["contamination"] or {}).get("matches", []), TOP),
        links=links,
        infilling=infilling_example(run / "builds" / "github", _infilled(results)["name"], run / "tokenizer"),
        charts=_charts(results),
        commit=_shortly(results["commits"]["example"], "given"),
        samples=[_shortly(sample, "prefix") for sample in results["samples"]],
        web=corpus_facts(1, web.corpus_of(config), web.KEPT, results["web"]["quality"]),
        math=_mathematics(config, results["math_web"]),
        web_page=page_before_and_after(web.archives_of(config), web.corpus_of(config), web.KEPT),
        site_kinds=_site_kinds(config, results["web"]),
        model_facts=model_facts(results["training"]["model"]),
        layout=layout(results["training"]),
        sources=_held_out_sources(results["training"]),
        seconds=_seconds(results["seconds"]),
        bytes_per_token=_bytes_per_token(results),
    )
    return page.strip() + "\n"


def _shortly(example: dict[str, str] | None, key: str) -> dict[str, str] | None:
    """An example whose end, what the model is to write or wrote, can be seen without scrolling far."""
    return {**example, key: shortened(example[key], *_GIVEN)} if example else None


def _mathematics(config: FullConfig, found: dict[str, Any]) -> dict[str, Any] | None:
    if found["left_out"]:
        return None
    return corpus_facts(2, web.corpus_of(config), math_web.KEPT, found["quality"], math_web.SCORES)


def _site_kinds(config: FullConfig, found: dict[str, Any]) -> list[dict[str, Any]]:
    return site_kinds(web.corpus_of(config), web.KEPT, web.CATEGORY) if found["categories"]["classifier"] else []


def _charts(results: dict[str, Any]) -> dict[str, Any]:
    training = results["training"]
    sources = results["subset"]["report"]["sources"]
    return {
        "loss": loss_chart(training),
        "held_out": held_out_chart(training),
        "recall": _recall_chart(results["web"], "recall-of-code"),
        "math_recall": _recall_chart(results["math_web"], "recall-of-mathematics"),
        "subset": [source_charts(number, source, "subset-") for number, source in enumerate(sources)],
    }


def _recall_chart(found: dict[str, Any], name: str) -> dict[str, Any] | None:
    classifier = found["recall"]["classifier"]
    return curve_chart(classifier["measured"]["recall"], name) if classifier else None


def _corpora(config: FullConfig, results: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """Each corpus and the selection that its own page shows."""
    pages = web.corpus_of(config)
    mathematics = {} if results["math_web"]["left_out"] else {"math_web": (pages, math_web.KEPT)}
    return {
        "github": (github.corpus_of(config), github.KEPT),
        "commits": (commits.corpus_of(config), commits.TRAINED_ON),
        "web": (pages, web.KEPT),
        **mathematics,
    }


def _infilled(results: dict[str, Any]) -> dict[str, Any]:
    """The build of the code with the most infilling."""
    own = [build for build in results["builds"] if build["category"] == "github" and build["split"] == "train"]
    return max(own, key=lambda build: build["fim"]["rate"])


def _bytes_per_token(results: dict[str, Any]) -> float:
    own = _infilled(results)
    return own["size_bytes"] / own["tokens"]


def _seconds(taken: dict[str, float]) -> dict[str, float]:
    """Chapter -> what its stages took together."""
    return {name: sum(taken.get(stage, 0.0) for stage in stages) for name, stages in _CHAPTERS.items()}


def _held_out_sources(training: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(point["source"] for point in training["held_out"]))


def _tiles(results: dict[str, Any]) -> list[Tile]:
    training, code = results["training"], results["github"]
    phases = training["phases"]
    documents = sum(found["documents"] for found in code["left"].values())
    first, last = phases[0]["sequence_length"], phases[-1]["sequence_length"]
    entropy = training["unigram_entropy"].get("github")
    loss = phases[-1]["held_out"].get("github", {}).get("loss")
    measured = code["quality"]["scorer"]["measured"]
    frequencies = f"Frequencies alone give {decimal(entropy)}."
    guess, steps = decimal(measured["mean_predictor_mae"]), count(training["steps"])
    return [
        Tile("Files of code", count(documents), "kept", "After duplicates, signs, benchmarks and the lowest tenth."),
        Tile("Scorer", decimal(measured["mae"]), "mean absolute error", f"Always saying the mean gives {guess}."),
        Tile("Trained on", count(training["tokens"]), "tokens", f"In {len(phases)} phases, {steps} steps."),
        Tile("Context", f"{count(first)} → {count(last)}", "tokens", f"{last / first:g} times as long in the end."),
        Tile("Held-out code", decimal(loss), "nats per token", frequencies, mood(loss, entropy)),
        proof(results),
    ]
