"""What a corpus holds, as numbers for a page or a terminal."""

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from data_prep.database import add_shards_view, open_database
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.select import SPLITS, read_selection
from data_prep.sources.base import REASONS

TOP_REPOSITORIES = 20


def corpus_report(corpus: Path, selection: str | None = None, workers: int = 1) -> dict[str, Any]:
    """JSON-able numbers of a corpus and, where one is named, of a selection.

    `import`: documents, text_bytes, shards, sources, languages and drops (reason -> count, size_bytes, examples,
    meaning). `selection`: as in `selection.json` (documents_in, dropped by each rule in order, left per split,
    languages), or None. `repositories`: the 20 largest by text that is left (or imported): source, repository, split,
    documents, size_bytes. Sizes are UTF-8 bytes of text. Raises `DataError`.
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
        "repositories": _largest_repositories(corpus, selection, workers),
    }


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
