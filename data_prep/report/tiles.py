"""The few numbers of a corpus that matter most, in words."""

from dataclasses import dataclass
from typing import Any

from data_prep.report.formats import count, decimal, percent, size


@dataclass(frozen=True)
class Tile:
    """One number of the first screen: what it is, the number, its unit, and a sentence on how to read it."""

    label: str
    value: str
    unit: str
    note: str
    mood: str = ""


def tiles(facts: dict[str, Any]) -> list[Tile]:
    """The tiles of a corpus's page; those of what is not known are left out."""
    data = facts["data"]
    found = [*_amounts(data), _duplicates(facts), _score(facts), _benchmarks(facts), _secrets(facts)]
    return [tile for tile in found if tile]


def _amounts(data: dict[str, Any]) -> list[Tile]:
    imported, selection = data["import"], data["selection"]
    languages = sum(entry["documents"] > 0 for entry in imported["languages"].values())
    note = f"Source files that are readable text, in {languages} {'language' if languages == 1 else 'languages'}."
    if not selection:
        return [
            Tile("Documents", count(imported["documents"]), "imported", note),
            Tile("Text", size(imported["text_bytes"]), "", "Nothing is selected yet."),
        ]
    train, held_out = selection["left"]["train"], selection["left"]["held_out"]
    kept = f"Imported → trained on. A further {count(held_out['documents'])} are held out to test on."
    share = train["size_bytes"] / imported["text_bytes"] if imported["text_bytes"] else None
    return [
        Tile("Documents", f"{count(imported['documents'])} → {count(train['documents'])}", "", kept),
        Tile("Text", f"{size(imported['text_bytes'])} → {size(train['size_bytes'])}", "",
             f"{percent(share)} of the imported text is trained on."),
    ]  # fmt: skip


def _duplicates(facts: dict[str, Any]) -> Tile | None:
    exact, near = (facts["duplicates"].get(key) for key in ("exact", "near"))
    known = [entry["documents"] for entry in (exact, near) if entry]
    documents = facts["data"]["import"]["documents"]
    if not known or not documents:
        return None
    parts = [f"{count(entry['documents'])} {name}" for entry, name in ((exact, "equal"), (near, "near-equal")) if entry]
    note = f"{' and '.join(parts)} files repeat another one."
    return Tile("Duplicates", percent(sum(known) / documents), "of the documents", note)


def _score(facts: dict[str, Any]) -> Tile | None:
    if not facts["scores"]:
        return None
    score = facts["scores"][0]
    lower, median, upper = score["quantiles"][1:4]
    note = f"Half of the documents have between {decimal(lower)} and {decimal(upper)}"
    note += f"; {count(score['dropped'])} are dropped for theirs." if score["rules"] else "."
    return Tile("Median score", decimal(median), score["column"], note)


def _benchmarks(facts: dict[str, Any]) -> Tile | None:
    found = facts["contamination"]
    if found is None:
        return None
    note = f"of {count(found['documents'])} documents that share words in a row with a benchmark problem."
    if not facts["data"]["selection"]:
        return Tile(
            "Benchmarks", count(found["documents"]), "documents hold a problem's words", "None is selected yet."
        )
    trained_on = found["trained_on"]
    return Tile("Benchmarks", count(trained_on), "trained on", note, "bad" if trained_on else "good")


def _secrets(facts: dict[str, Any]) -> Tile | None:
    found = facts["secrets"]
    if found is None:
        return None
    left = sum(kind["selected"] for kind in found["kinds"] if not kind["redacted"])
    replaced = sum(kind["selected"] for kind in found["kinds"] if kind["redacted"])
    total = sum(kind["spans"] for kind in found["kinds"])
    note = f"Of {count(total)} keys, passwords and e-mail addresses in {count(found['documents'])} documents"
    if not facts["data"]["selection"]:
        return Tile("Secrets", count(total), "found", f"{note}, none is selected yet.")
    note += f", {count(replaced)} are replaced wherever the selection is read; the rest is in dropped documents."
    return Tile("Secrets", count(left), "left in what is selected", note, "bad" if left else "good")
