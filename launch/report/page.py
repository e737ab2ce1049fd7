"""The report of a run, from raw code to a Hugging Face model: one HTML page, no script, nothing loaded."""

from pathlib import Path
from typing import Any

from data_prep.report.charts import waterfall_chart
from data_prep.report.environment import environment, parts
from data_prep.report.waterfall import below_cap, waterfall
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
        languages=parts(_languages(results.get("data")), TOP_LANGUAGES),
        repositories=parts((results.get("data") or {}).get("repositories") or [], TOP_REPOSITORIES),
        layout=layout(results.get("training")),
        model_facts=model_facts(results.get("model") or {}),
        seconds={stage: taken for stage, taken in (results.get("seconds") or {}).items() if taken is not None},
    )
    return page.strip() + "\n"


def _languages(data: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Languages by imported text: name, and documents and size_bytes for imported, train and held_out."""
    data = data or {}
    if data.get("selection"):
        found = data["selection"]["languages"].items()
        rows = [{"name": name, "imported": row["in"], "splits": [row["train"], row["held_out"]]} for name, row in found]
    else:
        found = ((data.get("import") or {}).get("languages") or {}).items()
        rows = [
            {"name": name, "imported": {"documents": row["documents"], "size_bytes": row["text_bytes"]}, "splits": []}
            for name, row in found
        ]
    return sorted(rows, key=lambda row: (-row["imported"]["size_bytes"], row["name"]))
