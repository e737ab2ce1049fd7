"""The report of a run, from raw code to a Hugging Face model: one HTML page, no script, nothing loaded."""

from pathlib import Path
from typing import Any

from data_prep.report.charts import waterfall_chart
from data_prep.report.environment import environment, parts
from data_prep.report.waterfall import below_cap, languages_of, waterfall
from data_prep.shards import write_atomic
from launch.report.charts import loss_chart
from launch.report.summary import layout, model_facts, tiles

TOP_LANGUAGES = 12
TOP_REPOSITORIES = 10


def write_report(results: dict[str, Any], path: Path) -> None:
    """Writes the page of `results` to `path`, whole or not at all. Equal results give equal bytes.

    `results` holds one entry per stage: name, finished, machine, versions, corpus, data (of
    `data_prep.report.corpus_report`), tokenizer, builds, model, training, export, samples, seconds. An entry that is
    missing or None is left out of the page. All text in it is taken as untrusted. Raises `OSError`.
    """
    page = render_page(results).encode("utf-8")
    write_atomic(Path(path), lambda stream: stream.write(page))


def render_page(results: dict[str, Any]) -> str:
    """The page as text."""
    steps = waterfall(results.get("data"))
    template = environment(Path(__file__).parent).get_template("template.html.j2")
    page = template.render(
        results=results,
        tiles=tiles(results),
        steps=steps,
        charts={"waterfall": waterfall_chart(below_cap(steps)), "loss": loss_chart(results.get("training"))},
        languages=parts(languages_of(results.get("data")), TOP_LANGUAGES),
        repositories=parts((results.get("data") or {}).get("repositories") or [], TOP_REPOSITORIES),
        layout=layout(results.get("training")),
        model_facts=model_facts(results.get("model") or {}),
        seconds={stage: taken for stage, taken in (results.get("seconds") or {}).items() if taken is not None},
    )
    return page.strip() + "\n"
