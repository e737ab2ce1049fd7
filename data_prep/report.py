"""What a corpus holds, as numbers for a page or a terminal."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.table import Table

from data_prep.annotate import summary
from data_prep.annotations import annotation_names, current_annotation
from data_prep.database import add_shards_view, open_database
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.select import SPLITS, read_selection
from data_prep.sources.base import REASONS

TOP_REPOSITORIES = 20
TOP_MATCHES = 20
CONTAMINATION = "decontamination"  # the annotation that says which benchmark problems a document holds


def corpus_report(corpus: Path, selection: str | None = None, workers: int = 1) -> dict[str, Any]:
    """JSON-able numbers of a corpus and, where one is named, of a selection.

    `import`: documents, text_bytes, shards, sources, languages and drops (reason -> count, size_bytes, examples,
    meaning). `selection`: as in `selection.json` (documents_in, dropped by each rule in order, left per split,
    languages), or None. `annotations`: name -> `data_prep.annotate.summary`, or None for one that is out of date.
    `contaminated`: which document matched which benchmark problems. `repositories`: the 20 largest by text that is left
    (or imported): source, repository, split, documents, size_bytes. Sizes are UTF-8 bytes of text. Raises `DataError`.
    """
    corpus = Path(corpus)
    list_shards(corpus)
    try:
        imported = json.loads((corpus / "import.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{corpus / 'import.json'} cannot be read ({error}); run `data import` again") from None
    for reason, drop in imported["drops"].items():
        drop["meaning"] = REASONS[reason]
    selected = read_selection(corpus, selection) if selection else None
    return {
        "corpus": str(corpus),
        "import": imported,
        "selection": selected,
        "annotations": _annotations(corpus),
        "contaminated": _contaminated(corpus),
        "repositories": _largest_repositories(corpus, selection, workers),
    }


def _annotations(corpus: Path) -> dict[str, dict[str, Any] | None]:
    whole = corpus_fingerprint(corpus)
    found: dict[str, dict[str, Any] | None] = {}
    for name in annotation_names(corpus):
        try:
            found[name] = summary([manifest for _, manifest in current_annotation(corpus, name, whole)])
        except DataError:
            found[name] = None
    return found


def _contaminated(corpus: Path) -> list[dict[str, Any]]:
    """Documents that share n-grams with benchmarks, those with the most first: what, where, which problems."""
    try:
        shards = [path for path, _ in current_annotation(corpus, CONTAMINATION, corpus_fingerprint(corpus))]
    except DataError:
        return []
    found = []
    for shard, annotation in zip(list_shards(corpus), shards, strict=True):
        matches = pq.read_table(annotation, columns=["id", "ngrams", "problems", "example"])
        chosen = pc.fill_null(pc.greater(matches["ngrams"], 0), False)
        if pc.any(chosen).as_py():
            where = pq.read_table(shard, columns=["source", "repository", "path"]).filter(chosen)
            rows = zip(where.to_pylist(), matches.filter(chosen).to_pylist(), strict=True)
            found += [place | match for place, match in rows]
    return sorted(found, key=lambda row: (-row["ngrams"], row["id"]))


def selection_names(corpus: Path) -> list[str]:
    """The selections that were made of a corpus."""
    return sorted(path.parent.name for path in (Path(corpus) / "selections").glob("*/selection.json"))


def _largest_repositories(corpus: Path, selection: str | None, workers: int) -> list[dict[str, Any]]:
    shards = list_shards(corpus)
    split, tables = "NULL::VARCHAR", "documents"
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch), workers) as database:
        add_shards_view(database, "documents", shards, "source, repository, size_bytes")
        if selection:
            add_shards_view(
                database, "selected", [corpus / "selections" / selection / shard.name for shard in shards], "split"
            )
            split, tables = "split", "(FROM documents JOIN selected USING (_shard, _row) WHERE split IS NOT NULL)"
        found = database.execute(
            f"SELECT source, repository, any_value({split}), count(*), sum(size_bytes)::BIGINT FROM {tables} "
            f"GROUP BY source, repository ORDER BY 5 DESC, source, repository LIMIT {TOP_REPOSITORIES}"
        ).fetchall()
    keys = ("source", "repository", "split", "documents", "size_bytes")
    return [dict(zip(keys, row, strict=True)) for row in found]


def render(report: dict[str, Any]) -> RenderableType:
    """The report as tables for a terminal."""
    parts = [_sources(report), _drops(report), _languages(report), _repositories(report)]
    parts += [_annotated(report), _matched(report)]
    if report["selection"]:
        parts.insert(2, _waterfall(report["selection"]))
    return Group(*(part for part in parts if part.row_count))


def _table(title: str, *columns: str, numbers: int = 2) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if 0 < index <= numbers else "left", overflow="fold")
    return table


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.2f}"


def _amount(entry: dict[str, int]) -> tuple[str, str]:
    return f"{entry['documents']:,}", _megabytes(entry["size_bytes"] if "size_bytes" in entry else entry["text_bytes"])


def _sources(report: dict[str, Any]) -> Table:
    table = _table(f"Imported into {report['corpus']}", "source", "documents", "MB of text")
    for name, source in report["import"]["sources"].items():
        table.add_row(name, *_amount(source))
    table.add_section()
    table.add_row("all", *_amount(report["import"]))
    return table


def _drops(report: dict[str, Any]) -> Table:
    table = _table("Dropped on import", "reason", "count", "MB", "what that is", "for example")
    for reason, drop in sorted(report["import"]["drops"].items(), key=lambda item: -item[1]["count"]):
        example = drop["examples"][0] if drop["examples"] else ""
        table.add_row(reason, f"{drop['count']:,}", _megabytes(drop["size_bytes"]), drop["meaning"], example)
    return table


def _waterfall(selection: dict[str, Any]) -> Table:
    table = _table(f"Selection {selection['name']}", "step", "documents", "MB of text", "repositories", numbers=3)
    table.add_row("imported", *_amount(selection["documents_in"]))
    for step in selection["dropped"]:
        table.add_row(f"- {step['rule']}", *_amount(step))
    table.add_section()
    for split in SPLITS:
        table.add_row(f"= {split}", *_amount(selection["left"][split]), f"{selection['left'][split]['repositories']:,}")
    return table


def _languages(report: dict[str, Any]) -> Table:
    if not report["selection"]:
        table = _table("Languages", "language", "documents", "MB of text")
        for name, entry in sorted(report["import"]["languages"].items(), key=lambda item: -item[1]["text_bytes"]):
            table.add_row(name, *_amount(entry))
        return table
    table = _table("Languages", "language", "imported", "MB", "train", "MB", "held out", "MB", numbers=6)
    for name, entry in report["selection"]["languages"].items():
        table.add_row(name, *_amount(entry["in"]), *_amount(entry["train"]), *_amount(entry["held_out"]))
    return table


def _repositories(report: dict[str, Any]) -> Table:
    table = _table("Largest repositories", "repository", "documents", "MB of text", "source", "split")
    for entry in report["repositories"]:
        table.add_row(entry["repository"], *_amount(entry), entry["source"], entry["split"] or "")
    return table


def _annotated(report: dict[str, Any]) -> Table:
    table = _table("Annotations", "annotation", "documents", "failed", "of them", "failed, for example")
    for name, entry in report["annotations"].items():
        if entry is None:
            table.add_row(name, "", "", "out of date: make it again", "")
            continue
        counts = ", ".join(f"{column} {count:,}" for column, count in entry["counts"].items())
        example = "; ".join(f"{failure['path']}: {failure['why']}" for failure in entry["failures"][:1])
        table.add_row(name, f"{entry['documents']:,}", f"{entry['failed']:,}", counts, example)
    return table


def _matched(report: dict[str, Any]) -> Table:
    count = len(report["contaminated"])
    title = f"Benchmark problems in documents ({count:,})"
    table = _table(title, "document", "n-grams", "problems", "such as", numbers=1)
    for row in report["contaminated"][:TOP_MATCHES]:
        more = f" and {len(row['problems']) - 3} more" if len(row["problems"]) > 3 else ""
        where = f"{row['repository']}/{row['path']}"
        table.add_row(where, f"{row['ngrams']:,}", ", ".join(row["problems"][:3]) + more, row["example"])
    return table
