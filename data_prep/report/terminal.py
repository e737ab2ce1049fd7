"""The numbers of a corpus as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_prep.report.formats import visible
from data_prep.select import SPLITS
from data_prep.sources.base import without_size

TOP_MATCHES = 20


def render(report: dict[str, Any]) -> RenderableType:
    """The report as tables for a terminal."""
    parts = [_sources(report), _drops(report), _languages(report), _repositories(report)]
    parts += [_annotated(report), _matched(report)]
    if report["selection"]:
        parts.insert(2, _waterfall(report["selection"]))
    return Group(*(part for part in parts if part.row_count))


def literal(text: str, style: str = "") -> Text:
    """Text as it is: no name of a file is markup, or acts on the terminal."""
    return Text(visible(text), style=style)


def add_row(table: Table, *cells: str) -> None:
    """A row whose cells are shown as they are."""
    table.add_row(*map(literal, cells))


def _table(title: str, *columns: str, numbers: int = 2) -> Table:
    table = Table(title=literal(title, "bold"), title_justify="left")
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
        add_row(table, name, *_amount(source))
    table.add_section()
    add_row(table, "all", *_amount(report["import"]))
    return table


def _drops(report: dict[str, Any]) -> Table:
    table = _table("Dropped on import", "reason", "count", "MB", "what that is", "for example")
    for reason, drop in sorted(report["import"]["drops"].items(), key=lambda item: -item[1]["count"]):
        example = drop["examples"][0] if drop["examples"] else ""
        unsized = without_size(drop)
        megabytes = "–" if unsized == drop["count"] else _megabytes(drop["size_bytes"])
        if 0 < unsized < drop["count"]:
            megabytes += f" ({unsized:,} without a size)"
        add_row(table, reason, f"{drop['count']:,}", megabytes, drop["meaning"], example)
    return table


def _waterfall(selection: dict[str, Any]) -> Table:
    columns = ("step", "documents", "MB of text", "alone", "MB", "repositories")
    table = _table(f"Selection {selection['name']}", *columns, numbers=5)
    add_row(table, "imported", *_amount(selection["documents_in"]))
    for step in selection["dropped"]:
        add_row(table, f"- {step['rule']}", *_amount(step), *(_amount(step["alone"]) if step["alone"] else ()))
    table.add_section()
    for split in SPLITS:
        left = selection["left"][split]
        add_row(table, f"= {split}", *_amount(left), "", "", f"{left['repositories']:,}")
    return table


def _languages(report: dict[str, Any]) -> Table:
    if not report["selection"]:
        table = _table("Languages", "language", "documents", "MB of text")
        for name, entry in sorted(report["import"]["languages"].items(), key=lambda item: -item[1]["text_bytes"]):
            add_row(table, name, *_amount(entry))
        return table
    table = _table("Languages", "language", "imported", "MB", "train", "MB", "held out", "MB", numbers=6)
    for name, entry in report["selection"]["languages"].items():
        add_row(table, name, *_amount(entry["in"]), *_amount(entry["train"]), *_amount(entry["held_out"]))
    return table


def _repositories(report: dict[str, Any]) -> Table:
    table = _table("Largest repositories", "repository", "documents", "MB of text", "source", "split")
    for entry in report["repositories"]:
        add_row(table, entry["repository"], *_amount(entry), entry["source"], entry["split"] or "")
    return table


def _annotated(report: dict[str, Any]) -> Table:
    table = _table("Annotations", "annotation", "documents", "failed", "of them", "failed, for example")
    for name, entry in report["annotations"].items():
        if entry is None:
            add_row(table, name, "", "", "out of date: make it again", "")
            continue
        counts = ", ".join(f"{column} {count:,}" for column, count in entry["counts"].items())
        example = "; ".join(f"{failure['path']}: {failure['why']}" for failure in entry["failures"][:1])
        add_row(table, name, f"{entry['documents']:,}", f"{entry['failed']:,}", counts, example)
    return table


def _matched(report: dict[str, Any]) -> Table:
    count = len(report["contaminated"])
    title = f"Benchmark problems in documents ({count:,})"
    table = _table(title, "document", "n-grams", "problems", "such as", numbers=1)
    for row in report["contaminated"][:TOP_MATCHES]:
        more = f" and {len(row['problems']) - 3} more" if len(row["problems"]) > 3 else ""
        where = f"{row['repository']}/{row['path']}"
        add_row(table, where, f"{row['ngrams']:,}", ", ".join(row["problems"][:3]) + more, row["example"])
    return table
