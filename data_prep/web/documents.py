"""Pages of a part as documents, with facts about each."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.annotations import StepAnnotation, annotation_shard, write_table
from data_prep.documents import Document, DocumentWriter, documents_directory
from data_prep.shards import ShardTask, write_shard
from data_prep.sources.base import Drops
from data_prep.sources.content import printable
from data_prep.web.archive import Part
from data_prep.web.pages import Dropped, Page
from data_prep.web.reader import read_pages
from data_prep.web.settings import WebConfig

FORMAT = "data_prep.web/1"
ANNOTATION = StepAnnotation.WEB.value
LANGUAGE = "Web"
_SAID_CHARACTERS = 300
FACTS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("host", pa.string()),
        pa.field("site", pa.string()),
        pa.field("title", pa.string()),
        pa.field("date", pa.timestamp("s", "UTC")),
        pa.field("content_type", pa.string()),
        pa.field("charset", pa.string()),
        pa.field("has_code", pa.bool_()),
        pa.field("code_share", pa.float32()),
        pa.field("code_blocks", pa.int32()),
        pa.field("html_bytes", pa.int64()),
        pa.field("is_truncated", pa.bool_()),
        pa.field("record", pa.string()),
        pa.field("failed", pa.string()),
    ]
)


@dataclass(frozen=True)
class WebUnit:
    """A part of a WARC file of a source. `shown` names the file in ids and in examples."""

    name: str
    source: str
    shown: str
    part: Part


@dataclass
class _Tally:
    drops: Drops
    documents: int = 0
    text_bytes: int = 0


def write_unit(stream: BinaryIO, unit: WebUnit, inputs: str, corpus: Path, config: WebConfig) -> Mapping[str, Any]:
    """Shard function: writes the documents shards of a unit, the annotation beside each, and its ledger to `stream`."""
    tally = _Tally(Drops(config.examples))
    pages = _pages(unit, config, tally.drops)
    files: dict[str, Any] = {}
    shards: list[str] = []
    for page in pages:
        shard = documents_directory(corpus) / f"{unit.name}-{len(shards):05d}.parquet"
        facts: list[dict[str, Any]] = []
        rows = itertools.chain([page], pages)
        made = write_shard(ShardTask(shard, inputs, _write_documents, (unit, rows, config.shard_bytes, facts, tally)))
        files[f"../{shard.parent.name}/{shard.name}"] = _digest(made)
        about = {"name": ANNOTATION, "version": FORMAT, "settings": config.model_dump(mode="json")}
        counters = {"documents_sha256": made["sha256"], "annotator": about, "failed": 0, "failures": []}
        path = annotation_shard(corpus, ANNOTATION, shard)
        made = write_shard(ShardTask(path, inputs, _write_facts, (facts, counters)))
        files[f"../annotations/{ANNOTATION}/{path.name}"] = _digest(made)
        shards.append(shard.name)
    counts = {"documents": tally.documents, "text_bytes": tally.text_bytes}
    ledger = {
        "source": unit.source,
        **counts,
        "languages": {LANGUAGE: counts} if tally.documents else {},
        "drops": tally.drops.by_reason,
        "shards": shards,
    }
    stream.write(json.dumps(ledger, indent=1, ensure_ascii=False).encode())
    return {"rows": tally.documents, "files": files}


def _digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: manifest[key] for key in ("sha256", "size_bytes")}


def _pages(unit: WebUnit, config: WebConfig, drops: Drops) -> Iterator[Page]:
    for found in read_pages(unit.part, config):
        if isinstance(found, Dropped):
            said = " ".join(filter(None, (found.url, f"({found.said})" if found.said else "")))
            example = f"{unit.shown}#{found.position}: {said}" if said else f"{unit.shown}#{found.position}"
            drops.add(found.reason, printable(example)[:_SAID_CHARACTERS], found.size_bytes)
        else:
            yield found


def _write_documents(
    stream: BinaryIO, unit: WebUnit, pages: Iterator[Page], most: int, facts: list[dict[str, Any]], tally: _Tally
) -> dict[str, Any]:
    """Writes pages until a shard is full, and gathers what the annotation says of them."""
    writer = DocumentWriter(stream)
    for page in pages:
        record = f"{unit.shown}#{page.position}"
        row = Document(
            unit.source,
            page.address.site,
            page.address.url,
            LANGUAGE,
            page.extracted.text,
            record,
            encoding=page.charset,
        ).row()
        writer.add(row)
        facts.append({"id": row["id"], "record": record, **_facts(page)})
        if writer.text_bytes >= most:
            break
    writer.close()
    tally.documents += writer.rows
    tally.text_bytes += writer.text_bytes
    return {"rows": writer.rows, "text_bytes": writer.text_bytes}


def _facts(page: Page) -> dict[str, Any]:
    return {
        "url": page.address.url,
        "host": page.address.host,
        "site": page.address.site,
        "title": page.extracted.title,
        "date": page.date,
        "content_type": page.content_type,
        "charset": page.charset,
        "has_code": page.extracted.has_code,
        "code_share": page.extracted.code_share,
        "code_blocks": page.extracted.code_blocks,
        "html_bytes": page.html_bytes,
        "is_truncated": page.is_truncated,
        "failed": None,
    }


def _write_facts(stream: BinaryIO, facts: list[dict[str, Any]], counters: dict[str, Any]) -> dict[str, Any]:
    table = pa.Table.from_pylist(facts, schema=FACTS)
    counts = {name: pc.sum(table[name]).as_py() or 0 for name in ("has_code", "is_truncated")}
    return write_table(stream, table, {**counters, "counts": counts})
