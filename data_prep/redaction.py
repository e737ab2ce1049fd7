"""Redaction: what a selection has replaced in its texts, wherever they are read."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

COLUMN = "redactions"  # of a selection's shards: list of (start, end, kind), in characters, in order; null for none


def replacement(kind: str) -> str:
    """What stands for a secret of this kind, such as `<EMAIL>`."""
    return f"<{kind.upper()}>"


def redact(text: str, spans: Sequence[Mapping[str, Any]] | None) -> str:
    """The text with its spans (start, end, kind), which are in order and do not overlap, replaced."""
    if not spans:
        return text
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span["start"]], replacement(span["kind"])]
        end = span["end"]
    return "".join([*parts, text[end:]])


def redact_table(table: pa.Table, spans: Sequence[Any]) -> pa.Table:
    """Replaces in the columns `text` and `size_bytes` of documents what their spans say."""
    texts = [redact(text, found) for text, found in zip(table["text"].to_pylist(), spans, strict=True)]
    sizes = [len(text.encode()) for text in texts]
    for name, values in (("text", texts), ("size_bytes", sizes)):
        index = table.schema.get_field_index(name)
        if index >= 0:
            table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table
