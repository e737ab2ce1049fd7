"""From what the sources hold to what is trained on, as steps to draw and to list."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from data_prep.sources.base import without_size

CAP = "total_size"  # the import's reason for what lies past the size that it was asked for
LABELS = {CAP: "past the size cap"}
RULES = {
    "language": "in a language that was not asked for",
    "exact_duplicate": "the same text, byte for byte, as a document that is kept",
    "near_duplicate": "nearly the same text as a document that is kept",
    "repository_duplicate": "of a repository with the same files as one that is kept",
    "near_repository": "of a repository with nearly the same files as one that is kept",
    "in_both_splits": "held out, but equal or nearly equal to a document that is trained on",
    "low_quality": "among the lowest scores of what the rules before it leave",
    "broken_syntax": "more under error nodes than good files of its language have, or cut off in the middle",
    "generated": "says that a program wrote it",
    "minified": "long lines with hardly any space",
    "data_file": "mostly numbers and strings",
    "not_searched_for_secrets": "the search for secrets failed, so they could not be replaced",
    "contaminated": "shares ten words in a row with a benchmark problem",
    "not_searched_for_benchmarks": "the search for benchmark problems failed, so it may hold one",
}


@dataclass(frozen=True)
class Step:
    """A level that is reached, or an amount that is taken away from it.

    `documents` are counted; a level's bar goes from 0 to `documents`, a drop's from `start` to `start + documents`.
    `without_size`: documents that `size_bytes` says nothing of. `alone`: documents that a rule would drop if there were
    no other.
    """

    label: str
    kind: Literal["level", "drop", "train", "held_out"]
    documents: int
    size_bytes: int | None = None
    without_size: int = 0
    start: int = 0
    meaning: str = ""
    condition: str = ""
    examples: Sequence[str] = field(default_factory=tuple)
    alone: int | None = None
    alone_bytes: int | None = None


def waterfall(data: dict[str, Any] | None) -> list[Step]:
    """Steps of `data_prep.report.corpus_report`: found, import drops, imported, rules, the splits.

    Import drops come by count, except that what lies past the size cap comes first: it says nothing about the files.
    """
    imported = (data or {}).get("import")
    if not imported:
        return []
    drops = sorted((imported.get("drops") or {}).items(), key=lambda item: (item[0] != CAP, -item[1]["count"], item[0]))
    level = imported["documents"] + sum(drop["count"] for _, drop in drops)
    size_bytes = imported["text_bytes"] + sum(drop["size_bytes"] for _, drop in drops)
    unsized = sum(without_size(drop) for _, drop in drops)
    meaning = "files, records and folders looked at"
    steps = [Step("found in the sources", "level", level, size_bytes, unsized, meaning=meaning)]
    for reason, drop in drops:
        level -= drop["count"]
        size_bytes -= drop["size_bytes"]
        unsized -= without_size(drop)
        steps.append(_import_drop(reason, drop, level))
        if reason == CAP:
            meaning = "what the import looked into"
            steps.append(Step("within the size cap", "level", level, size_bytes, unsized, meaning=meaning))
    meaning = "documents: one per source file or record"
    steps.append(Step("imported", "level", level, imported["text_bytes"], meaning=meaning))
    return steps + _selection(data.get("selection"), level)


def below_cap(steps: list[Step]) -> list[Step]:
    """The steps without what a size cap cut off, which would dwarf every other one in a chart."""
    levels = [index for index, step in enumerate(steps) if step.kind == "level"]
    return steps[levels[1] :] if len(levels) > 2 else steps


def _import_drop(reason: str, drop: dict[str, Any], start: int) -> Step:
    label = LABELS.get(reason, reason.replace("_", " "))
    unsized = without_size(drop)
    size_bytes = None if unsized == drop["count"] else drop["size_bytes"]
    amounts = (drop["count"], size_bytes, unsized, start)
    return Step(label, "drop", *amounts, drop.get("meaning", ""), examples=drop.get("examples") or ())


def _selection(selection: dict[str, Any] | None, level: int) -> list[Step]:
    if not selection:
        return []
    steps = []
    for rule in selection["dropped"]:
        level -= rule["documents"]
        steps.append(_rule_drop(rule, level))
    train, held_out = (selection["left"][split] for split in ("train", "held_out"))
    apart = _repositories(held_out, "kept apart to test the model on code it has not seen")
    amounts = (held_out["documents"], held_out["size_bytes"], 0, level - held_out["documents"])
    steps.append(Step("held out", "held_out", *amounts, apart))
    left = _repositories(train, "what is left")
    steps.append(Step("trained on", "train", train["documents"], train["size_bytes"], meaning=left))
    return steps


def _rule_drop(rule: dict[str, Any], start: int) -> Step:
    name, alone = rule["rule"], rule.get("alone") or {}
    return Step(
        name.replace("_", " "),
        "drop",
        rule["documents"],
        rule["size_bytes"],
        0,
        start,
        RULES.get(name, ""),
        condition=rule.get("drop", ""),
        examples=rule.get("examples") or (),
        alone=alone.get("documents"),
        alone_bytes=alone.get("size_bytes"),
    )


def _repositories(split: dict[str, Any], meaning: str) -> str:
    repositories = split["repositories"]
    return f"{repositories:,} whole {'repository' if repositories == 1 else 'repositories'}; {meaning}"


def languages_of(data: dict[str, Any] | None) -> list[dict[str, Any]]:
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
