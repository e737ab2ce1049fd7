"""How well a classifier does, as JSON and as an HTML page that needs nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from data_prep.classify.measure import Judged
from data_prep.classify.model import digest
from data_prep.documents import read_rows
from data_prep.report.charts import bare
from data_prep.report.environment import environment
from data_prep.report.excerpts import Place, excerpt, read_texts
from data_prep.report.svg import HELD_OUT, LINE, MUTED, TRAIN, render
from data_prep.shards import write_atomic, write_json

_HEIGHTS = {"wide": 420, "narrow": 320}
_EACH = 4
_MOST_CONFUSION = 25  # labels
_KINDS = {
    "missed": "To be found, but below the threshold",
    "wrong": "Recalled, and surest of those that are not to be found",
    "above": "Just above the threshold",
    "below": "Just below the threshold",
}


def write_page(about: Mapping[str, Any], judged: Judged, shards: Sequence[Path], folder: Path) -> Path:
    """Writes `report.html` and, last, `report.json` into `folder`; returns the page.

    `about`: what `model.json` says. `judged`: the documents of the test, of `shards`, from which samples are shown.
    """
    about = {**about, "digest": digest(about)}
    measured = about["measured"]
    page = (
        environment(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            about=about,
            measured=measured,
            curve=curve_chart(measured["recall"]) if "recall" in measured else None,
            samples=_samples(about, judged, shards),
            most_confusion=_MOST_CONFUSION,
        )
    )
    write_atomic(folder / "report.html", lambda stream: stream.write(page.encode()))
    write_json(folder / "report.json", about)
    return folder / "report.html"


def curve_chart(sides: Mapping[str, Any], name: str = "curve") -> dict[str, Markup]:
    """Precision by recall on both sides; `name` tells it from other charts of a page."""
    text = "Precision for every recall, by threshold, with the threshold that was picked."
    return render(name, "Precision and recall", text, _HEIGHTS, partial(_draw, sides))


def _draw(sides: Mapping[str, Any], figure: Figure, narrow: bool) -> None:
    axes = figure.subplots()
    bare(axes)
    colours = {"validation": MUTED, "test": TRAIN}
    for side, found in sides.items():
        recall, precision = found["curve"]["recall"], found["curve"]["precision"]
        axes.plot(recall, precision, color=colours[side], linewidth=1.2 if side == "validation" else 2, label=side)
        axes.plot([found["recall"]], [found["precision"]], "o", color=colours[side], markersize=7)
    base = sides["test"]["base_rate"]
    axes.axhline(base, color=HELD_OUT, linewidth=1, linestyle=(0, (4, 3)), label="base rate")
    axes.grid(color=LINE, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower left", ncols=1 if narrow else 3)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")


def _samples(about: Mapping[str, Any], judged: Judged, shards: Sequence[Path]) -> list[dict[str, Any]]:
    """Groups of documents to look at: title and examples (where, label, probability, excerpt)."""
    if about.get("positive") is None:
        scores = judged.probabilities.max(axis=1, initial=0)
        wrong = np.flatnonzero(judged.probabilities.argmax(axis=1) != judged.true) if len(scores) else []
        chosen = {"Surest of those that got another label": sorted(wrong, key=lambda row: -scores[row])[:_EACH]}
    else:
        number = judged.labels.index(about["positive"])
        scores = judged.probabilities[:, number]
        chosen = {_KINDS[kind]: rows for kind, rows in _near(scores, judged.true == number, about["threshold"]).items()}
    places = {row: tuple(map(int, judged.places[row])) for rows in chosen.values() for row in rows}
    texts = read_texts(shards, places.values())
    names = _names(shards, places.values())
    groups = []
    for title, rows in chosen.items():
        examples = [
            {
                **names[places[row]],
                "label": judged.labels[judged.true[row]],
                "said": judged.labels[int(judged.probabilities[row].argmax())],
                "probability": float(scores[row]),
                "excerpt": excerpt(texts[places[row]]),
            }
            for row in rows
        ]
        groups.append({"title": title, "examples": examples})
    return [group for group in groups if group["examples"]]


def _near(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, list[int]]:
    """Rows of each of `_KINDS`, none in two of them."""
    order = np.argsort(scores, kind="stable")
    kept, left = order[scores[order] >= threshold], order[scores[order] < threshold]
    wanted = {
        "missed": [row for row in left if positive[row]],
        "wrong": [row for row in kept[::-1] if not positive[row]],
        "above": list(kept),
        "below": list(left[::-1]),
    }
    found, seen = {}, set()
    for kind, rows in wanted.items():
        found[kind] = [int(row) for row in rows if row not in seen][:_EACH]
        seen |= set(found[kind])
    return found


def _names(shards: Sequence[Path], places: Iterable[Place]) -> dict[Place, dict[str, str]]:
    """Repository and path by place."""
    names = {}
    by_shard: dict[int, list[int]] = {}
    for shard, row in sorted(places):
        by_shard.setdefault(shard, []).append(row)
    for shard, rows in by_shard.items():
        for found, documents in read_rows(shards[shard], np.array(rows), ["repository", "path"]):
            names |= {(shard, row): entry for row, entry in zip(found.tolist(), documents.to_pylist(), strict=True)}
    return names
